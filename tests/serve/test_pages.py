import asyncio
import re

import pytest
from fakes import connect, parts

from lifelong.serve.pages import FOLDER, POLICY

FILES = sorted(path.name for path in FOLDER.iterdir())


def get(*paths, **headers):
    async def main():
        async with connect(parts()) as client:
            return [await client.get(path, headers=headers) for path in paths]

    return asyncio.run(main())


def test_the_page_needs_no_key_and_forbids_all_but_its_own_files():
    for response in get("/console", *(f"/console/{n}" for n in FILES if n != "index.html")):
        assert response.status_code == 200
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        again = get(response.url.path, **{"If-None-Match": response.headers["etag"]})[0]
        assert (again.status_code, again.content) == (304, b"")
    assert "frame-ancestors 'none'" in POLICY
    assert "unsafe" not in POLICY


def test_the_root_leads_to_it():
    [response] = get("/")
    assert (response.status_code, response.headers["location"]) == (307, "console")


def test_only_its_own_files_are_served():
    names = ("index.html", "..%2Fpages.py", "../pages.py", "%2e%2e/pages.py", "console")
    for response in get(*(f"/console/{name}" for name in names)):
        assert response.status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_no_file_makes_html_of_text_or_needs_what_the_policy_forbids(name):
    text = (FOLDER / name).read_text("utf-8")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert word not in text
    assert "http://www.w3.org/2000/svg" in text or "http" not in text
    if name.endswith(".html"):
        assert re.search(r"<script(?![^>]*src=)|\son\w+=|style=|<style", text) is None
