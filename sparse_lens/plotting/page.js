"use strict";
(function () {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const templates = JSON.parse(byId("data-templates").textContent);

  // Figures are packed, and so is plotly; each is unpacked once, when it is first needed.
  async function unpack(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  }

  let started = null;
  function plotly() {
    started ||= unpack("plotly").then((packed) => packed.text()).then((text) => new Promise((resolve, reject) => {
      const source = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
      const script = Object.assign(document.createElement("script"), { src: source, onload: resolve, onerror: reject });
      document.head.append(script);
    }));
    return started;
  }

  async function draw(div) {
    const name = div.dataset.figure;
    if (!name || div.dataset.drawn === name) return;
    div.dataset.drawn = name;
    const packed = unpack("figure-" + name);
    await plotly();
    const figure = await (await packed).json();
    if (div.dataset.figure !== name) return; // another was chosen meanwhile
    const layout = figure.layout;
    layout.template = templates[root.dataset.theme];
    const least = (layout.meta || {}).min_width;
    div.style.minWidth = least ? least + "px" : "";
    div.style.minHeight = layout.height + "px";
    const isNetwork = figure.data.some((trace) => (trace.meta || {}).role === "edge points");
    if (isNetwork) prepare(figure.data);
    const tools = div.dataset.tools === "1";
    await Plotly.newPlot(div, figure.data, layout, {
      responsive: true, displaylogo: false, displayModeBar: tools, scrollZoom: false,
      modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
      toImageButtonOptions: { format: "svg", filename: name }, doubleClick: "reset",
    });
    div.removeAllListeners("plotly_hover");
    div.removeAllListeners("plotly_unhover");
    div.removeAllListeners("plotly_click");
    if (isNetwork) follow(div);
    if (isNetwork) profile(div);
  }

  // A node under the pointer lights up its edges, an edge itself; the others fade (page.css).
  function prepare(traces) {
    traces.forEach((trace, i) => {
      if ((trace.meta || {}).role === "edges") trace.uid = "edge-" + i;
    });
    const twins = traces.filter((trace) => trace.uid).map((trace) => ({
      type: "scatter", mode: "lines", x: [], y: [], hoverinfo: "skip", showlegend: false,
      line: { width: trace.line.width + 1, color: trace.line.color }, meta: { role: "lit" },
    }));
    traces.push({
      type: "scatter", mode: "markers", x: [], y: [], hoverinfo: "skip", showlegend: false, cliponaxis: false,
      marker: { symbol: "circle-open", size: 20, color: "#d9622b", line: { width: 2.5, color: "#d9622b" } },
      meta: { role: "chosen node" },
    });
    const points = traces.findIndex((trace) => (trace.meta || {}).role === "edge points");
    traces.splice(points, 0, ...twins);
  }

  function follow(div) {
    const roles = div.data.map((trace) => (trace.meta || {}).role);
    const ends = div.data[roles.indexOf("edge points")].customdata;
    const lit = [...roles.keys()].filter((i) => roles[i] === "lit");
    const routes = new Map(); // by edge: its points, and which of the lit traces it goes to
    [...roles.keys()].filter((i) => roles[i] === "edges").forEach((i, twin) => {
      const trace = div.data[i];
      let start = 0, k = 0;
      for (let j = 0; j < trace.x.length; j++) {
        if (trace.x[j] !== null) continue;
        const [x, y] = [trace.x.slice(start, j + 1), trace.y.slice(start, j + 1)];
        routes.set(trace.meta.edges[k++], { x, y, twin });
        start = j + 1;
      }
    });
    let timer = null;
    const show = (edges) => {
      const [x, y] = [lit.map(() => []), lit.map(() => [])];
      edges.map((edge) => routes.get(edge)).forEach((route) => {
        x[route.twin].push(...route.x);
        y[route.twin].push(...route.y);
      });
      div.classList.toggle("lit", edges.length > 0);
      Plotly.restyle(div, { x, y }, lit);
    };
    div.on("plotly_hover", (event) => {
      const point = event.points[0], role = roles[point.curveNumber];
      let edges = [];
      if (role === "edge points") edges = [point.customdata[0]];
      if (role === "nodes") {
        edges = ends.filter((e) => e[1] === point.customdata || e[2] === point.customdata).map((e) => e[0]);
      }
      clearTimeout(timer);
      timer = setTimeout(() => show(edges), 40);
    });
    div.on("plotly_unhover", () => {
      clearTimeout(timer);
      timer = setTimeout(() => show([]), 120);
    });
  }

  // Under a circuit: what a chosen node does on some prompts, token by token.
  function profile(div) {
    const panel = div.parentElement.nextElementSibling;
    if (!panel || !panel.classList.contains("profile")) return;
    const found = div.layout.meta.profiles;
    panel.hidden = !found || !found.nodes.name.length;
    if (panel.hidden) return;
    const nodes = found.nodes;
    const element = (name, properties, ...children) => {
      const made = Object.assign(document.createElement(name), properties);
      made.append(...children);
      return made;
    };
    const menu = element("select", { ariaLabel: "Node" }, ...nodes.name.map((name, i) => new Option(name, i)));
    const facts = element("span", { className: "soft" });
    const texts = element("div", { className: "prompts" });
    const visible = (text) => text.replace(/\n/g, "\u23ce\n");
    const number = (value) => value.toPrecision(3).replace("-", "\u2212");
    const ring = div.data.findIndex((trace) => (trace.meta || {}).role === "chosen node");
    const mark = (number) => div.data.forEach((trace) => {
      const k = (trace.meta || {}).role === "nodes" ? trace.customdata.indexOf(number) : -1;
      if (k >= 0) Plotly.restyle(div, { x: [[trace.x[k]]], y: [[trace.y[k]]] }, [ring]);
    });
    const choose = (i) => {
      menu.value = i;
      mark(found.numbers[i]);
      const means = nodes.means[i].map((mean, c) =>
        number(mean) + (found.classes.length > 1 ? " before " + JSON.stringify(found.classes[c]) : ""));
      facts.textContent = `mean ${found.unit} ${means.join(", ")}` +
        (nodes.effect[i] === null ? "" : `; without it the loss changes by ${number(nodes.effect[i])} nats`);
      texts.replaceChildren(...found.prompts.map((tokens, p) => element("pre", {},
        ...tokens.map((token, t) => {
          const level = nodes.activations[i][p][t] / found.levels;
          const span = element("span", { textContent: visible(token), title: number(level * nodes.largest[i]) });
          const colour = level < 0 ? "var(--negative)" : "var(--positive)";
          span.style.background = `color-mix(in srgb, ${colour} ${Math.round(75 * Math.abs(level))}%, transparent)`;
          return span;
        }),
        element("span", { className: "soft", textContent: " \u2192 " + found.classes[found.prompt_classes[p]] }))));
    };
    menu.addEventListener("change", () => choose(Number(menu.value)));
    div.on("plotly_click", (event) => {
      const point = event.points[0], isNode = (div.data[point.curveNumber].meta || {}).role === "nodes";
      const i = isNode ? found.numbers.indexOf(point.customdata) : -1;
      if (i >= 0) choose(i);
    });
    panel.replaceChildren(element("label", {}, "What a node does: ", menu), facts, texts);
    const sizes = nodes.means.map((means) => Math.max(...means) - Math.min(...means));
    choose(sizes.indexOf(Math.max(...sizes)));
  }

  const watcher = new IntersectionObserver((entries) => {
    entries.forEach((entry) => { if (entry.isIntersecting) draw(entry.target); });
  }, { rootMargin: "300px" });
  const plots = () => document.querySelectorAll(".plot");
  plots().forEach((div) => watcher.observe(div));
  // Printing does not scroll, so what no one came near is drawn when the page has been still for a while.
  const drawAll = () => plots().forEach((div) => draw(div));
  addEventListener("load", () => setTimeout(drawAll, 5000));
  addEventListener("beforeprint", drawAll);
  function redraw(div) { watcher.unobserve(div); watcher.observe(div); }

  byId("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("sparse-lens-theme", root.dataset.theme); } catch (error) { /* a file may not */ }
    plots().forEach((div) => {
      if (div.data) Plotly.relayout(div, { template: templates[root.dataset.theme] });
    });
  });

  // Rows of buttons: one is pressed, and every figure of their group shows what it stands for.
  document.querySelectorAll(".choice").forEach((choice) => {
    choice.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      choice.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      document.querySelectorAll(`.plot[data-group="${choice.dataset.group}"]`).forEach((div) => {
        div.dataset.figure = div.dataset.pattern.replace("*", button.value);
        redraw(div);
      });
    });
  });

  // The circuit that the menus choose.
  const place = byId("circuit");
  if (place) {
    const circuits = JSON.parse(byId("data-circuits").textContent);
    const menus = [...document.querySelectorAll("[data-menu]")];
    const panel = place.parentElement.nextElementSibling;
    const choose = () => {
      const key = menus.map((menu) => menu.value).join("\n");
      const found = circuits.find((circuit) => circuit.key.join("\n") === key);
      byId("circuit-caption").innerHTML = found ? found.caption : "This combination was not run.";
      place.dataset.figure = found && found.figure ? found.figure : "";
      place.hidden = !place.dataset.figure;
      panel.hidden = true; // until the figure is drawn
      delete place.dataset.drawn;
      redraw(place);
    };
    menus.forEach((menu) => menu.addEventListener("change", choose));
    choose();
  }

  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const sort = (head, column) => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value || row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)], [n, m] = [Number(x), Number(y)];
        const order = Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y) : n - m;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      head.addEventListener("click", () => sort(head, column));
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(head, column); });
    });
  });
})();
