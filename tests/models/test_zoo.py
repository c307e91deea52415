"""Names become folders: fetched whole from a local server, or not at all."""

import functools
import hashlib
import io
import json
import re
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparse_lens.models import zoo
from sparse_lens.models.download import DownloadError, download
from sparse_lens.models.released import BASE_URL, released_models
from tests.models.http_server import Answer, Server, serving

NAME = "csp_sweep1_2x_1.9Mnonzero_afrac0.125"
FILES = {"beeg_config.json", "final_model.pt", "encoder.json", "vocab.bpe"}
HTML = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


@functools.cache  # it holds the time of day
def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", bytes(range(256)) * 4)
    return buffer.getvalue()


def store(name: str = NAME) -> dict[str, Answer]:
    return {
        f"/store/models/{name}/beeg_config.json": Answer(b'{"n_layer": 2}'),
        f"/store/models/{name}/final_model.pt": Answer(archive()),
        "/store/tinypython/encoder.json": Answer(b'{"a": 0, "b": 1, "ab": 2}'),
        "/store/tinypython/vocab.bpe": Answer(b"#version: 0.2\na b\n"),
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("SPARSE_LENS_BASE_URL", raising=False)
    with serving(store()) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPARSE_LENS_CACHE", str(folder))
    return folder


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def spoil(server: Server, file: str, **changes: object) -> str:
    """Break the answer for one file; returns its address."""
    (path,) = (path for path in server.answers if path.endswith(file))
    server.answers[path] = replace(server.answers[path], **changes)  # type: ignore[arg-type]
    return server.url.removesuffix("/store") + path


def test_released_names_are_the_cross_product_and_the_seven_others():
    names = list(released_models())
    sweep = [
        f"csp_sweep1_{size}x_{nonzero}Mnonzero_afrac{fraction}"
        for size in (1, 2, 4, 8, 16)
        for nonzero in (0.9, 1.9, 3.7, 7.4, 14.8)
        for fraction in ("0.062", "0.125", "0.250", "0.500", "1.000")
    ]
    others = {"csp_yolo1", "csp_yolo2", "csp_bridges1", "csp_bridges2"}
    others |= {"dense1_1x", "dense1_2x", "dense1_4x"}
    assert set(names) == others.union(sweep)
    assert len(names) == 5**3 + 7
    assert released_models()["dense1_1x"].urls(BASE_URL) == {
        "beeg_config.json": f"{BASE_URL}/models/dense1_1x/beeg_config.json",
        "encoder.json": f"{BASE_URL}/tinypython/encoder.json",
        "vocab.bpe": f"{BASE_URL}/tinypython/vocab.bpe",
        "final_model.pt": f"{BASE_URL}/models/dense1_1x/final_model.pt",
    }


def test_fetches_every_file_once_and_records_what_came(server: Server, cache: Path):
    folder = zoo.resolve(NAME, base_url=server.url)
    assert folder == cache / NAME
    assert contents(folder) == FILES | {"manifest.json"}
    recorded = json.loads((folder / "manifest.json").read_text())["files"]
    for path, answer in server.answers.items():
        file = path.rsplit("/", 1)[1]
        assert (folder / file).read_bytes() == answer.body
        assert recorded[file]["sha256"] == hashlib.sha256(answer.body).hexdigest()
        assert recorded[file]["size"] == len(answer.body)
    assert sorted(server.requests) == sorted(server.answers)

    server.requests.clear()
    assert zoo.resolve(NAME, base_url=server.url) == folder
    assert server.requests == []


def test_address_and_cache_can_be_set_by_environment_and_argument(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPARSE_LENS_BASE_URL", server.url + "/")
    assert zoo.resolve(NAME) == cache / NAME
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("SPARSE_LENS_BASE_URL", "http://127.0.0.1:1")
    assert zoo.resolve(NAME, base_url=server.url, cache=elsewhere) == elsewhere / NAME


def test_default_cache_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("SPARSE_LENS_CACHE", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / project)
    assert zoo.locate(NAME) == tmp_path / "sparse-lens" / NAME


@pytest.mark.parametrize(
    ("file", "changes", "cause"),
    [
        ("final_model.pt", {"announced": 10_000}, r"10000|IncompleteRead"),
        ("final_model.pt", {"body": archive()[:-30]}, "zip archive is broken"),
        ("final_model.pt", {"body": b"not found", "status": 404}, "404 Not Found"),
        ("final_model.pt", {"body": b"", "status": 503}, "503"),
        ("final_model.pt", {"body": HTML, "content_type": "text/html"}, "web page"),
        ("final_model.pt", {"body": b""}, "empty file"),
        ("beeg_config.json", {"body": b'{"n_layer": '}, "not JSON"),
        ("beeg_config.json", {"body": b"[1, 2]"}, "JSON list"),
        ("vocab.bpe", {"body": b"this is no list of merges"}, "not a list of merges"),
        ("vocab.bpe", {"body": b"\xff\xfe\x00"}, "not UTF-8"),
        ("vocab.bpe", {"body": HTML}, "web page"),
    ],
)
def test_a_broken_download_names_its_cause_leaves_nothing_and_can_be_tried_again(
    server: Server, cache: Path, file: str, changes: dict[str, object], cause: str
):
    good = dict(server.answers)
    url = spoil(server, file, **changes)
    with pytest.raises(DownloadError, match=cause) as caught:
        zoo.resolve(NAME, base_url=server.url)
    message = str(caught.value)
    assert isinstance(caught.value, OSError)
    assert url in message
    assert str(cache / NAME) in message
    assert all(f"/{wanted}" in message for wanted in FILES)
    assert file not in contents(cache / NAME)
    assert not [name for name in contents(cache / NAME) if name.endswith(".part")]
    assert next(e for e in zoo.list_models() if e.name == NAME).status == "available"

    server.answers.update(good)
    server.requests.clear()
    folder = zoo.resolve(NAME, base_url=server.url)
    assert contents(folder) == FILES | {"manifest.json"}
    assert any(path.endswith(file) for path in server.requests)
    assert len(server.requests) < 4 or file == "beeg_config.json"  # whole files are kept


def test_no_connection_says_what_to_put_where(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"no connection.*refused") as caught:
        zoo.resolve("dense1_1x", base_url=f"http://127.0.0.1:{port}/store")
    assert f"put these files into {cache / 'dense1_1x'}: " in str(caught.value)
    assert f"http://127.0.0.1:{port}/store/models/dense1_1x/final_model.pt" in str(caught.value)


def test_an_address_that_is_none_is_named(cache: Path):
    with pytest.raises(DownloadError, match="nonsense/models/dense1_1x"):
        zoo.resolve("dense1_1x", base_url="nonsense")


def test_an_interrupted_download_leaves_nothing(server: Server, tmp_path: Path):
    def interrupted(path: Path) -> None:
        assert path.stat().st_size > 0
        raise KeyboardInterrupt

    url = f"{server.url}/tinypython/vocab.bpe"
    with pytest.raises(KeyboardInterrupt):
        download(url, tmp_path / "vocab.bpe", check=interrupted)
    assert contents(tmp_path) == set()


def test_files_put_there_by_hand_are_used_without_asking(server: Server, cache: Path):
    folder = cache / NAME
    folder.mkdir(parents=True)
    for path, answer in server.answers.items():
        (folder / path.rsplit("/", 1)[1]).write_bytes(answer.body)
    assert zoo.resolve(NAME, base_url="http://127.0.0.1:1") == folder
    assert zoo.verify(NAME) == {NAME: ()}

    (folder / "manifest.json").unlink()
    (folder / "final_model.pt").write_bytes(archive()[:100])
    with pytest.raises(ValueError, match=r"final_model.pt is not a readable checkpoint.*clear"):
        zoo.resolve(NAME, base_url=server.url)
    assert (folder / "final_model.pt").read_bytes() == archive()[:100]  # not ours to replace


def test_a_fetched_file_that_was_cut_off_later_is_fetched_again(server: Server, cache: Path):
    folder = zoo.resolve(NAME, base_url=server.url)
    (folder / "final_model.pt").write_bytes(archive()[:100])
    server.requests.clear()
    zoo.resolve(NAME, base_url=server.url)
    assert (folder / "final_model.pt").read_bytes() == archive()
    assert len(server.requests) == 1


def test_verify_finds_changed_missing_and_broken_files(server: Server, cache: Path):
    folder = zoo.resolve(NAME, base_url=server.url)
    assert zoo.verify() == {NAME: ()}
    (folder / "beeg_config.json").write_bytes(b'{"n_layer": 3}')
    (folder / "encoder.json").write_bytes(b"{")
    (folder / "vocab.bpe").unlink()
    changed, broken, missing = zoo.verify(NAME)[NAME]
    assert re.search(r"beeg_config.json has changed", changed)
    assert re.search(r"encoder.json is not JSON", broken)
    assert re.search(r"vocab.bpe is missing", missing)
    with pytest.raises(ValueError, match=r"no model 'csp_yolo3'.*csp_yolo"):
        zoo.verify("csp_yolo3")


def test_bridges_are_refused_unless_somebody_has_good_copies(server: Server, cache: Path):
    with pytest.raises(ValueError, match=r"csp_bridges1 cannot be fetched.*empty or corrupt"):
        zoo.resolve("csp_bridges1", base_url=server.url)
    assert server.requests == []
    entry = next(entry for entry in zoo.list_models() if entry.name == "csp_bridges1")
    assert entry.status == "unavailable"
    assert "empty or corrupt" in entry.description

    (cache / "csp_bridges1").mkdir(parents=True)
    for path, answer in server.answers.items():
        (cache / "csp_bridges1" / path.rsplit("/", 1)[1]).write_bytes(answer.body)
    assert zoo.resolve("csp_bridges1") == cache / "csp_bridges1"


def test_folders_stand_for_themselves_and_unknown_names_are_suggested(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    assert zoo.resolve(tmp_path) == tmp_path
    assert zoo.resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert zoo.resolve("~/mine") == tmp_path / "mine"
    with pytest.raises(ValueError, match=r"Did you mean dense1_.*sparse-lens models"):
        zoo.resolve("dense_1x")
    with pytest.raises(ValueError, match="no model ''"):
        zoo.resolve("")
    file = tmp_path / "final_model.pt"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; pass the folder"):
        zoo.resolve(file)


def test_embedded_models_need_no_network_and_may_be_none(tmp_path: Path, cache: Path):
    empty, root = tmp_path / "none", tmp_path / "embedded"
    assert all(entry.status != "embedded" for entry in zoo.list_models(embedded=empty))
    for name, log in (("tiny-b", "{}"), ("tiny-a", '{"description": "two layers"}')):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text("{}")
        (root / name / "training.json").write_text(log)
    (root / "__pycache__").mkdir()
    assert zoo.resolve("tiny-a", embedded=root, base_url="http://127.0.0.1:1") == root / "tiny-a"
    first, second, *others = zoo.list_models(embedded=root)
    assert first == zoo.ModelEntry("tiny-a", "embedded", 31, "two layers", root / "tiny-a")
    assert (second.name, second.description) == ("tiny-b", "")
    assert len(others) == 132
    assert {entry.status for entry in others} == {"available", "unavailable"}
    with pytest.raises(ValueError, match="Did you mean tiny-"):
        zoo.resolve("tiny-c", embedded=root)


def test_the_packages_own_embedded_models_resolve(cache: Path):
    for entry in zoo.list_models():
        if entry.status == "embedded":
            assert zoo.resolve(entry.name) == entry.path
            assert (entry.path / "model.safetensors").is_file()
            with pytest.raises(ValueError, match="embedded in the package"):
                zoo.clear_cache(entry.name)


def test_clearing_frees_what_was_fetched_and_nothing_else(server: Server, cache: Path):
    server.answers.update(store("dense1_1x"))
    for name in (NAME, "dense1_1x"):
        zoo.resolve(name, base_url=server.url)
    (cache / NAME / ".final_model.pt.0badcafe.part").write_bytes(b"12345")  # of a killed process
    (cache / NAME / "notes.txt").write_text("mine")
    (cache / "another_program").mkdir()

    size = sum(path.stat().st_size for path in (cache / NAME).iterdir()) - len("mine")
    (cleared,) = zoo.clear_cache(NAME)
    assert (cleared.name, cleared.size, cleared.path) == (NAME, size, cache / NAME)
    assert contents(cache / NAME) == {"notes.txt"}
    assert zoo.clear_cache(NAME) == ()
    assert [entry.name for entry in zoo.clear_cache()] == ["dense1_1x"]
    assert contents(cache) == {NAME, "another_program"}
    with pytest.raises(ValueError, match="no model 'nope'"):
        zoo.clear_cache("nope")


def test_a_real_checkpoint_comes_through_unchanged(server: Server, cache: Path, fixtures: Path):
    source = fixtures / "sparse_gpt" / "sparse_sink_bigram"
    for file in ("beeg_config.json", "final_model.pt"):
        body = (source / file).read_bytes()
        server.answers[f"/store/models/csp_yolo2/{file}"] = Answer(body)
    folder = zoo.resolve("csp_yolo2", base_url=server.url)
    for file in ("beeg_config.json", "final_model.pt"):
        assert (folder / file).read_bytes() == (source / file).read_bytes()
    entry = next(entry for entry in zoo.list_models() if entry.name == "csp_yolo2")
    assert entry.status == "cached"
    assert entry.size == sum(path.stat().st_size for path in folder.iterdir())
