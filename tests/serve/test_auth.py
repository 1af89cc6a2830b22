import pytest
from fakes import all_keys
from hypothesis import given
from hypothesis import strategies as st

from lifelong.core.errors import ConfigError
from lifelong.serve.auth import ROLES, Key, Keys, Refused, hash_of


def status(keys, headers, host="192.0.2.1", role="predict"):
    try:
        return keys.admit(headers, host, role)
    except Refused as error:
        return error.status if error.what and error.how else None


def test_roles_do_not_include_each_other():
    keys = all_keys()
    for own in ROLES:
        for role in ROLES:
            expected = own if own == role else 403
            assert status(keys, {"x-api-key": own}, role=role) == expected
        assert keys.admit({"x-api-key": own}, None, None) == own


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "nobody"}, 401),
        ({"x-api-key": "predict "}, 401),
        ({"authorization": "Bearer predict"}, "predict"),
        ({"authorization": "bearer  predict"}, "predict"),
        ({"authorization": "Basic predict"}, 401),
        ({"authorization": "predict"}, 401),
        ({"x-api-key": "nobody", "authorization": "Bearer predict"}, 401),
        ({"x-api-key": hash_of("predict")}, 401),
        ({"x-api-key": "\udcff\u2603"}, 401),
    ],
)
def test_a_key_comes_in_either_header(headers, expected):
    assert status(all_keys(), headers) == expected


def test_every_key_is_compared_whichever_fits(monkeypatch):
    compared = []
    from lifelong.serve import auth

    real = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    for key in ("predict", "operate", "nobody"):
        compared.clear()
        status(all_keys(), {"x-api-key": key})
        assert len(compared) == len(ROLES)


@pytest.mark.parametrize(
    ("host", "headers", "expected"),
    [
        ("127.0.0.1", {}, "local"),
        ("127.8.8.8", {"host": "127.0.0.1:8000"}, "local"),
        ("::1", {"host": "[::1]:8000"}, "local"),
        ("::1", {"host": "localhost"}, "local"),
        ("192.0.2.1", {}, 403),
        (None, {}, 403),
        ("testclient", {}, 403),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, 403),
        ("127.0.0.1", {"forwarded": "for=192.0.2.1"}, 403),
        ("127.0.0.1", {"host": "evil.example:8000"}, 403),
    ],
)
def test_without_keys_only_this_machine_may_ask(host, headers, expected):
    for role in ROLES:
        assert status(Keys(), headers, host, role) == expected


def attempt(keys):
    try:
        keys.admit({"x-api-key": "a"}, None, "predict")
    except Refused as error:
        return error


@given(
    rate=st.floats(0.5, 100),
    burst=st.integers(1, 20),
    waits=st.lists(st.floats(0, 2), max_size=60),
)
def test_a_key_gets_no_more_than_its_rate(rate, burst, waits):
    now = 100.0
    keys = Keys([Key("a", frozenset({"predict"}), hash_of("a"), rate, burst)], lambda: now)
    admitted = 0
    for wait in waits:
        now += wait
        refused = attempt(keys)
        if refused is not None:
            assert refused.status == 429
            assert refused.retry_after > 0
            now += refused.retry_after + 1e-9  # waiting as told is enough
            assert attempt(keys) is None
        admitted += 1
    assert admitted <= burst + (now - 100.0) * rate + 1e-6
    assert admitted == len(waits)


def test_limits_are_each_keys_own_and_unlimited_by_default():
    limited = Key("slow", frozenset({"predict"}), hash_of("slow"), 0.001)
    keys = all_keys(slow=limited)
    assert [status(keys, {"x-api-key": "slow"}) for _ in range(3)] == ["slow", 429, 429]
    assert all(status(keys, {"x-api-key": "predict"}) == "predict" for _ in range(100))
    # What the role forbids costs nothing.
    assert status(keys, {"x-api-key": "slow"}, role="operate") == 403


@pytest.mark.parametrize(
    "key",
    [
        {"name": ""},
        {"name": "local"},
        {"roles": frozenset()},
        {"roles": frozenset({"admin"})},
        {"sha256": "secret"},
        {"sha256": hash_of("a").upper()},
        {"rate": 0.0},
        {"rate": -1.0},
        {"rate": float("nan")},
    ],
)
def test_senseless_keys_are_refused(key):
    with pytest.raises(ConfigError):
        Key(**{"name": "a", "roles": frozenset({"predict"}), "sha256": hash_of("a"), **key})


def test_keys_are_unique():
    one = Key("a", frozenset({"predict"}), hash_of("a"))
    with pytest.raises(ConfigError, match="same name"):
        Keys([one, Key("a", frozenset({"learn"}), hash_of("b"))])
    with pytest.raises(ConfigError, match="same sha256"):
        Keys([one, Key("b", frozenset({"learn"}), hash_of("a"))])


def test_an_error_never_shows_the_key():
    for headers in ({"x-api-key": "very-secret"}, {"authorization": "Bearer very-secret"}):
        with pytest.raises(Refused) as caught:
            all_keys().admit(headers, None, "predict")
        assert "very-secret" not in str(caught.value)
