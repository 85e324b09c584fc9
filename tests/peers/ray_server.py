"""A Ray Serve application on this machine: `python ray_server.py PORT NAME=VALUE ...`.

Prints a line when it answers, and ends with its standard input."""

import sys

import ray
from ray import serve

from pyroclast.server.ray_app import build_app


def main(port: str, *arguments: str) -> None:
    args = dict(argument.split("=", 1) for argument in arguments)
    n_cpus = int(args["replicas"]) * int(args.get("cpus", 1))
    ray.init("local", num_cpus=n_cpus, include_dashboard=False, object_store_memory=1 << 27)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(build_app(args))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
