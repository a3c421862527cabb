#!/usr/bin/env bash
# Writes the gRPC stubs and their types from skills/skills.proto.
# With --check it writes nothing, and fails where what is committed is not current.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin

generate() {  # into the folder $1
  PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I. \
    "--python_out=$1" "--grpc_python_out=$1" "--mypy_out=quiet:$1" "--mypy_grpc_out=quiet:$1" skills/skills.proto
}

if [[ ${1:-} != --check ]]; then
  generate .
  exit
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate "$fresh"
stale=0
for stub in "$fresh"/skills/*; do
  diff -u "skills/${stub##*/}" "$stub" >&2 || stale=1
done
if ((stale)); then
  echo "The stubs are not those of skills/skills.proto: run \`make stubs\`" >&2
  exit 1
fi
