"""``dev.py serve``: the development ComfyUI with the pack, the trained toy and the tests' SD1.5 in it, until Ctrl+C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import cache
from .model_cache import demo_models, link_models, toy_models
from .server import ComfyServer, ServerError, stop_on_sigterm


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py serve")
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8188)
    options = parser.parse_args()

    stop_on_sigterm()
    # Kept between runs: settings, saved workflows and pictures.
    base = cache.cache_root() / "serve"
    for models in (toy_models(print), demo_models(options.comfyui, print)):
        link_models(models, base)
    print("Starting ComfyUI on the CPU ...", flush=True)
    try:
        with ComfyServer(options.comfyui, base=base, port=options.port) as server:
            print(f"{server.url}   Ctrl+C stops it.")
            print('To begin, open Templates, this pack, "Try it without any download".')
            print(f"Models and pictures: {base}\nLog: {server.log_path}", flush=True)
            server.wait()
            print(f"ComfyUI ended by itself.\n\n{server.log_tail()}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        pass
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
