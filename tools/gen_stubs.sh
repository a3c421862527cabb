#!/usr/bin/env bash
# Writes the gRPC stubs and their types from the contract (skills/*.proto), the skills' own protos, and the scaler's.
# With --check it writes nothing, and fails where what is committed is not current.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin

generate() {  # into the folder $1
  local scaler=(core/scaling/scaler.proto core/scaling/vendored/*.proto)
  protoc "--python_out=$1" "--mypy_out=quiet:$1" skills/types.proto skills/skills.proto skills/skill_*/*.proto "${scaler[@]}"
  protoc "--grpc_python_out=$1" "--mypy_grpc_out=quiet:$1" skills/skills.proto skills/skill_*/*.proto "${scaler[@]}"
}

protoc() {
  PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I. "$@"
}

if [[ ${1:-} != --check ]]; then
  generate .
  exit
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate "$fresh"
stale=0
while read -r stub; do
  diff -u "${stub#"$fresh/"}" "$stub" >&2 || stale=1
done < <(find "$fresh" -type f)
if ((stale)); then
  echo "The stubs are not those of the protos: run \`make stubs\`" >&2
  exit 1
fi
