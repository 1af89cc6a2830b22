"""The console in a real browser, on a real service: what it shows, and what can be done with it."""

import json
import os
import shutil
import signal
import time

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from small_service import points
from test_service import Service, until

from lifelong.serve.auth import hash_of
from lifelong.serve.client import Client
from lifelong.serve.registry import served

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"
    ),
]
OPERATOR = "<img src=x onerror=\"document.title='broken'\">"
SETTINGS = f"""
learner: model.py:learner
folder: state
schema: {{shape: [6], classes: 4}}
train: {{batch: 8, period: 100, anchors: 0.1, every: 100, warmup: 50}}
release: {{every: 0.2, rows: 40, mode: manual}}
serve: {{port: PORT, flush: 0.1}}
keys:
  - name: {json.dumps(OPERATOR)}
    roles: [predict, learn, operate]
    sha256: {hash_of("whole")}
  - {{name: shop, roles: [predict], sha256: {hash_of("partial")}}}
"""
CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const backOf = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const back = rgba(getComputedStyle(at).backgroundColor);
    if (back[3] === 255) return back;
    if (back[3] !== 0) throw new Error('a background that is half transparent');
  }
  return rgba(getComputedStyle(document.documentElement).colorScheme ? 'Canvas' : 'white');
};
const found = [];
for (const node of document.querySelectorAll('body *')) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
  const box = node.getBoundingClientRect();
  if (!own || box.width < 2 || box.height < 2 || node.closest('dialog:not([open])')) continue;
  const style = getComputedStyle(node);
  const color = node instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [luminance(rgba(color)), luminance(backOf(node))];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.slice(0, 40)]);
}
return found;
"""


class Keyed(Service):
    """A service with keys, one of which has a name that would be HTML."""

    def __init__(self, folder):
        super().__init__(folder)
        self.client.close()
        self.url = f"http://127.0.0.1:{self.port}"
        self.path.write_text(SETTINGS.replace("PORT", str(self.port)))
        self.client = Client(self.url, "whole", attempts=12, pause=0.1)


class Page:
    """What a person does with the page, and what one finds on it."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self):
        self.driver.get(self.url + "/console")

    def run(self, script, *given):
        return self.driver.execute_script(script, *given)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent", selector)

    def opened(self):
        return self.run("return document.querySelector('dialog[open]')?.id")

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self):
        return self.run(
            "const a = document.activeElement; return a.getAttribute('aria-label') || a.id || "
            "a.textContent.slice(0, 40)"
        )

    def tab_to(self, name, most=150):
        """Press the tabulator until something of this name has focus, and is seen to have it."""
        for _ in range(most):
            if self.focused() == name:
                style = "return getComputedStyle(document.activeElement).outlineStyle"
                assert self.run(style) == "solid"
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{name!r} cannot be reached by keyboard")

    def emulate(self, scheme="light", width=1280, motion="no-preference"):
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self):
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Keyed(tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture(scope="module")
def page(service, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Driver(DRIVER))
    try:
        page = Page(driver, service.url)
        page.emulate()
        yield page
    finally:
        driver.quit()


@pytest.fixture
def shown(page):
    """The page, let in and showing figures."""
    if not page.driver.current_url.startswith(page.url):
        page.open()
    page.run("sessionStorage.setItem('lifelong.key', 'whole')")
    page.open()
    until(lambda: page.text("#pill-api .says") == "Api: answering")
    until(lambda: page.text("#versions tbody"))
    page.emulate()
    page.errors()  # of before
    return page


def test_it_asks_for_a_key_and_says_what_the_key_lacks(page):
    page.open()
    until(lambda: page.opened() == "ask-key")
    assert page.focused() == "ask-input"
    inside = """const at = document.activeElement;
    return at === document.body || at.closest('dialog[open]') !== null"""
    for _ in range(8):
        page.press(Keys.TAB)
        assert page.run(inside)
    page.press(Keys.ESCAPE)
    until(lambda: page.opened() is None)
    assert "wants a key" in page.text("#pill-api")
    page.tab_to("change-key")
    page.press(Keys.ENTER)
    until(lambda: page.opened() == "ask-key")
    page.press("partial", Keys.ENTER)
    until(lambda: "roles predict" in page.text("#ask-key .error"))
    assert "'operate'" in page.text("#ask-key .error")
    page.run("document.getElementById('ask-input').focus()")
    page.press("whole", Keys.ENTER)
    until(lambda: page.text("#pill-api .says") == "Api: answering")
    assert page.opened() is None
    assert page.text("#caller") == OPERATOR
    assert page.run("return [Object.keys(localStorage).length, document.cookie]") == [0, ""]


def test_figures_move_as_events_come(service, shown):
    def learned():
        return page_number(shown.text("#figures > div:last-child .more"))

    before = learned()
    service.teach(150, seed=1)
    until(lambda: learned() >= before + 100)
    until(lambda: "Period 0" in (shown.text("#anchors") or ""))
    until(lambda: "Examples" in shown.text("#events"))
    assert "No candidate yet" not in shown.text("#trial")
    service.teach(100, seed=2)
    until(lambda: shown.text("#matrix tbody tr"))
    assert shown.errors() == []


def page_number(text):
    digits = text.partition(" rows")[0].replace(",", "")
    return int(digits) if digits.isdigit() else 0


def test_html_of_a_source_is_text(service, shown):
    x, y = points(3, seed=3)
    for i, (row, label) in enumerate(zip(x, y, strict=True)):
        service.client.example([100 * value for value in row], label, id=f"far-{i}")
    service.teach(16, seed=4)
    until(lambda: OPERATOR in shown.text("#quarantine"))
    assert shown.run("return document.querySelectorAll('img').length") == 0
    assert shown.driver.title == "lifelong console"
    rows = service.client._send("GET", "/quarantine?limit=2", None)["rows"]
    assert [set(row) for row in rows] == [{"offset", "reason", "source"}] * 2


def test_versions_are_promoted_and_rolled_back_by_keyboard_alone(service, shown):
    until(lambda: "Promote version 2" in shown.run("return document.body.innerHTML"))
    shown.tab_to("Skip to the figures")
    shown.press(Keys.ENTER)
    shown.tab_to("Promote version 2")
    shown.press(Keys.ENTER)
    until(lambda: shown.opened() == "decide")
    shown.press(Keys.ENTER)
    assert "Give a reason" in shown.text("#decide .error")
    shown.press("looks <b>good</b>", Keys.ENTER)
    until(lambda: shown.opened() is None)
    assert served(service.state)["champion"] == 2
    until(lambda: "version 2" in shown.text("#figures"))
    until(lambda: "Version 2 is served" in shown.text("#news"))
    until(lambda: "looks <b>good</b>" in shown.text("#audit"))
    assert OPERATOR in shown.text("#audit")

    shown.tab_to("roll-back")
    shown.press(Keys.SPACE)
    until(lambda: shown.opened() == "decide")
    shown.press(Keys.ESCAPE)
    until(lambda: shown.opened() is None)
    assert shown.focused() == "roll-back"
    shown.press(Keys.SPACE)
    until(lambda: shown.opened() == "decide")
    shown.press(Keys.TAB, "not so good", Keys.TAB, Keys.SPACE, Keys.ENTER)
    until(lambda: served(service.state)["champion"] == 1)
    until(lambda: "version 1" in shown.text("#figures"))
    last = service.client._send("GET", "/audit?before=1000&limit=1", None)["entries"][0]
    assert (last["action"], last["details"]["reason"]) == ("rollback", "not so good")
    assert shown.errors() == []


def test_a_refused_decision_is_explained_where_it_was_asked_for(service, shown):
    until(lambda: "Promote version 2" in shown.run("return document.body.innerHTML"))
    shown.run("document.querySelector('[aria-label=\"Promote version 2\"]').click()")
    until(lambda: shown.opened() == "decide")
    shown.run("sessionStorage.setItem('lifelong.key', 'partial')")
    shown.press("a reason", Keys.ENTER)
    until(lambda: "roles predict" in shown.text("#decide .error"))
    assert served(service.state)["champion"] == 1


def test_the_death_of_a_process_is_shown_and_its_return(service, shown):
    until(lambda: shown.text("#pill-trainer .says") == "Trainer: learning")
    trainer, api = service.trainer_pid(), service.api_pid()
    os.kill(service.process.pid, signal.SIGSTOP)  # or else the supervisor starts them at once
    try:
        os.kill(trainer, signal.SIGKILL)
        until(lambda: shown.text("#pill-trainer .says") == "Trainer: not running")
        assert "The trainer is not running" in shown.text("#notices")
        until(lambda: "Trainer not running" in shown.text("#news"))
        os.kill(api, signal.SIGKILL)
        until(lambda: shown.text("#pill-api .says") == "Api: not answering")
        assert "does not answer since" in shown.text("#notices")
        until(lambda: "The api does not answer" in shown.text("#news"))
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    until(lambda: shown.text("#pill-api .says") == "Api: answering", 120)
    until(lambda: shown.text("#pill-trainer .says") == "Trainer: learning", 120)
    assert shown.text("#notices") == ""
    assert "Trainer learning" in shown.text("#news")


def test_text_can_be_read_in_light_and_in_dark(shown):
    seen = {}
    for scheme in ("light", "dark"):
        shown.emulate(scheme)
        seen[scheme] = shown.run("return getComputedStyle(document.body).backgroundColor")
        found = shown.run(CONTRASTS)
        assert len(found) > 60
        assert min(found)[0] >= 4.5, sorted(found)[:5]
        shown.run("document.getElementById('roll-back').click()")
        assert min(shown.run(CONTRASTS))[0] >= 4.5
        shown.press(Keys.ESCAPE)
    assert seen["light"] != seen["dark"]


def test_a_phone_needs_no_scrolling_to_the_side(shown):
    shown.emulate(width=360)
    until(lambda: shown.run("return innerWidth") == 360)
    time.sleep(1.2)  # charts are drawn anew for the width
    assert shown.run("return document.documentElement.scrollWidth") <= 360
    shown.run("document.getElementById('roll-back').click()")
    assert (
        shown.run("return document.querySelector('#decide').getBoundingClientRect().right") <= 360
    )
    shown.press(Keys.ESCAPE)


def test_it_can_be_used_without_seeing_or_motion(service, shown):
    shown.emulate(motion="reduce")
    none_moves = """return [...document.querySelectorAll('*')].every((node) =>
        getComputedStyle(node).transitionDuration === '0s' && !node.getAnimations().length)"""
    until(lambda: shown.run(none_moves))  # what moved before comes to its end
    unnamed = """
    const name = (n) => n.getAttribute('aria-label') || n.textContent.trim() ||
        document.getElementById(n.getAttribute('aria-labelledby'))?.textContent;
    return [...document.querySelectorAll('button, section, [role=region], [role=img], main h2')]
        .filter((n) => !name(n)).map((n) => n.outerHTML.slice(0, 80))"""
    assert shown.run(unnamed) == []
    heads = "return [...document.querySelectorAll('th')].every((th) => th.hasAttribute('scope'))"
    assert shown.run(heads)
    service.teach(60, seed=9)
    charts = "return document.querySelectorAll('svg[role=img]').length"
    # The rates have to be counted for ten seconds since the api was killed.
    until(lambda: shown.run(charts) >= 3)
    parts = """return ['header', 'main', 'h1', '[aria-live]', 'caption']
        .map((selector) => document.querySelectorAll(selector).length)"""
    header, main, h1, live, captions = shown.run(parts)
    assert (header, main, h1, live) == (1, 1, 1, 1)
    assert captions >= 5


def test_nothing_is_asked_of_others_and_nothing_goes_wrong(shown):
    shown.errors(), shown.requested()
    shown.open()
    until(lambda: shown.text("#versions tbody"))
    time.sleep(1.5)
    asked = shown.requested()
    assert {url.rpartition("/")[2] for url in asked} >= {"console", "console.js", "status"}
    assert all(url.startswith(shown.url + "/") for url in asked), asked
    assert shown.errors() == []
