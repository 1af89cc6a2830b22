"""What strangers send: cases made of the OpenAPI document, broken bodies and broken headers."""

import pytest
import schemathesis
from chaos import CONFIG
from fakes import app_of, parts
from hypothesis import HealthCheck, settings
from malformed import run
from running import Running

from lifelong.serve.client import Client
from lifelong.serve.table import ROUTES

schema = schemathesis.openapi.from_asgi("/openapi.json", app_of(parts()))
ROLES = {route.path: route.role for route in ROUTES}


@schema.hook
def map_body(context, body):
    """Write whole numbers as such: to JSON Schema 5.0 is an integer, to the service it is not."""
    return whole(body) if context.operation.path in ROLES else body


def whole(value):
    if isinstance(value, dict):
        return {key: part if key in ("x", "rows") else whole(part) for key, part in value.items()}
    if isinstance(value, list):
        return [whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_nothing(case):
    case.call_and_validate(headers={"X-API-Key": ROLES.get(case.path) or "operate"})


@pytest.mark.slow
@pytest.mark.timeout(600)  # processes that import torch and MLflow
def test_broken_requests_are_no_errors_of_the_service_and_leave_no_memory_behind(tmp_path):
    with Running(tmp_path, CONFIG) as service, Client(service.url) as client:
        api = service.pid("api")
        found, before, after = run(service, 600, seed=2)  # it exits where a 5xx comes
        assert {"400", "404", "415", "422"} <= found.keys() <= {*map(str, range(200, 500))}
        assert after - before < 10_000_000
        assert client.predict([0.0] * 6).version == 1
        assert service.pid("api") == api
