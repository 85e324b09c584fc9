"""What a Ray Serve application of the server may be asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from pyroclast.errors import RequestError

ENVIRONMENT = "PYROCLAST_RAY_"

# Arguments that are no plain text or number, and how each looks as a text.
_JSON = {"adapters": '{"name": "path"}', "cors_origins": '["https://page.example"]'}

Count = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `build_app` takes.  cpus and gpus are each replica's; its threads are as many as its
    CPUs.  max_imbalance: by how many requests one replica may be busier than another and still get
    those whose prefix it has cached.  The others are those of `pyroclast serve`."""

    model: str
    served_model_name: str | None = None
    replicas: Count = 1
    fronts: Count = 1
    cpus: Count = 1
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_imbalance: Annotated[int, msgspec.Meta(ge=0)] = 8
    compute: str = "auto"
    kernels: str | None = None
    kv_dtype: str = "auto"
    max_seqs: Count = 64
    max_queued_requests: Count = 1024
    embeddings: bool = False
    prefix_cache: bool = True
    speculation: str = "auto"
    draft: str | None = None
    adapters: dict[str, str] = {}
    answer_parser: str | None = None
    cors_origins: list[str] = []
    api_key_file: str | None = None


def from_environment() -> dict[str, str]:
    """The arguments in PYROCLAST_RAY_MODEL, PYROCLAST_RAY_REPLICAS and so on."""
    return {
        name.removeprefix(ENVIRONMENT).lower(): value
        for name, value in os.environ.items()
        if name.startswith(ENVIRONMENT)
    }


def read_settings(args: Mapping[str, Any]) -> Settings:
    """The settings; RequestError for an argument that there is not, or that is out of range."""
    try:  # the command line and the environment have texts only
        given = {name: _value(name, value) for name, value in args.items()}
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        allowed = ", ".join(Settings.__struct_fields__)
        raise RequestError(f"the arguments of build_app: {error}; there are {allowed}") from error


def _value(name: str, value: Any) -> Any:
    """What an argument says: a text that stands for a mapping or a list is JSON."""
    if name not in _JSON or not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise RequestError(
            f"the argument {name} of build_app must be JSON where it is a text, such as "
            f"{_JSON[name]}; got {value!r} ({error})"
        ) from error
