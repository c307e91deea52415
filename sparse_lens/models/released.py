"""Names and addresses of the sparse GPTs that Gao et al. 2025 (2511.13653) released."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

BASE_URL = "https://openaipublic.blob.core.windows.net/circuit-sparsity"

FILES: Mapping[str, str] = MappingProxyType(
    {
        "beeg_config.json": "models/{name}",
        "encoder.json": "tinypython",
        "vocab.bpe": "tinypython",
        "final_model.pt": "models/{name}",
    }
)
"""The files of a released model with their remote folders; the large file is the last."""

SWEEP = "csp_sweep1"
"""Prefix of the names of the models in the sweep over sizes and sparsities."""

_SIZES = ("1", "2", "4", "8", "16")
_NONZEROS = ("0.9", "1.9", "3.7", "7.4", "14.8")
_FRACTIONS = ("0.062", "0.125", "0.250", "0.500", "1.000")


@dataclass(frozen=True)
class ReleasedModel:
    """One released checkpoint."""

    name: str
    description: str

    broken: str | None = None
    """The reason why the upstream files cannot be used; None when they can."""

    def urls(self, base_url: str) -> dict[str, str]:
        """The address of every file, by file name."""
        base_url = base_url.rstrip("/")
        return {
            file: f"{base_url}/{folder.format(name=self.name)}/{file}"
            for file, folder in FILES.items()
        }


def released_models() -> dict[str, ReleasedModel]:
    """Every released checkpoint by name."""
    bridges = "its files upstream are known to be empty or corrupt"
    models = [
        ReleasedModel("csp_yolo1", "sparse: 12 layers, d_model 1024, 128 heads of 8"),
        ReleasedModel("csp_yolo2", "sparse: 8 layers, d_model 2048, 128 heads of 16, sinks"),
        ReleasedModel("csp_bridges1", "sparse, bridged to a dense model", broken=bridges),
        ReleasedModel("csp_bridges2", "sparse, bridged to a dense model", broken=bridges),
        *(ReleasedModel(f"dense1_{size}x", f"dense, size {size}x") for size in ("1", "2", "4")),
        *(
            ReleasedModel(
                f"{SWEEP}_{size}x_{nonzeros}Mnonzero_afrac{fraction}",
                f"sparse: size {size}x, {nonzeros}M nonzero weights, "
                f"{float(fraction):.3g} of activations kept",
            )
            for size, nonzeros, fraction in product(_SIZES, _NONZEROS, _FRACTIONS)
        ),
    ]
    return {model.name: model for model in models}
