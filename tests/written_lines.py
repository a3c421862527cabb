"""Lines that users may have copied from documents, as written there: they must keep working."""

from __future__ import annotations

POOL_CLIENT = """
from core.model_pool import get_model_pool
from skills import skills_pb2

pool = get_model_pool()
draft_client = pool.get_skill_client("draft")
response = draft_client.Generate(
    skills_pb2.GenReq(prompt="Hello", max_tokens=16, temperature=0.7, stop=["###"]), timeout=10.0
)
print(f"pool: {response.text!r}, {response.tokens_generated} tokens")
print(f"{response.tokens_per_second:.1f} tok/s, {response.latency_ms:.0f} ms")
"""

BARE_STUB = """
import grpc
from skills import skills_pb2, skills_pb2_grpc

channel = grpc.insecure_channel("localhost:50051")
stub = skills_pb2_grpc.SkillsServiceStub(channel)
response = stub.Generate(skills_pb2.GenReq(prompt="Hello", max_tokens=16, temperature=0.7, stop=["###"]))
print(f"stub: {response.text!r}, {response.tokens_generated} tokens")
health = stub.Health(skills_pb2.HealthReq())
print(f"stub: {health.status}, {health.ram_mb:.0f} MB, {health.cpu_percent:.0f} %, {health.total_requests} requests")
"""

CLIENTS = f"python - <<'END'\n{POOL_CLIENT}END\npython - <<'END'\n{BARE_STUB}END\n"

SERVER = "cd skills/skill_draft && python server.py"

GRPCURL = """
grpcurl -plaintext localhost:50051 SkillsService/Health
grpcurl -plaintext localhost:50051 grpc.health.v1.Health/Check
grpcurl -plaintext -d '{"prompt": "Hello", "max_tokens": 32}' localhost:50051 SkillsService/Generate
"""

COMPOSE_UP = "docker-compose up -d skill_draft"

DOCKER_RUN = (
    "docker run -d --name skill_draft --cpus=2 --memory=3g -p 50051:50051 -v $(pwd)/models:/models "
    "sarai-skill-draft:v2.16"
)

DOCKER_HEALTH = (
    'docker exec skill_draft python -c "import grpc; from skills import skills_pb2, skills_pb2_grpc; '
    "stub = skills_pb2_grpc.SkillsServiceStub(grpc.insecure_channel('localhost:50051')); "
    'print(stub.Health(skills_pb2.HealthReq()))"'
)

# buf replaces grpcurl, which is no Python package: like that, it learns the service by reflection.
GRPCURL_BY_BUF = """
grpcurl() {
  local data='{}'
  shift
  if [ "$1" = -d ]; then data=$2; shift 2; fi
  buf curl --protocol grpc --http2-prior-knowledge -d "$data" "http://$1/$2"
}
"""

# Wait until it serves, as a user does before the first request.
WAIT = "until python -m sarai health -q draft; do sleep 0.2; done\n"
