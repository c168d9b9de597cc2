"""A person opens the pages, fills in the form and reads the answer."""

import pytest

from tests.browser.conftest import complaints, requested
from tests.http.server import wait_until

pytestmark = [pytest.mark.service, pytest.mark.browser, pytest.mark.timeout(180)]
pytest.importorskip("selenium", reason="selenium is not installed: the pages are not tested")


def text_of(browser, selector):
    return browser.execute_script(
        "const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", selector
    )


def open_playground(browser, service, model):
    complaints(browser)
    browser.get(f"{service.url}/playground#{model}")
    browser.refresh()
    wait_until(lambda: text_of(browser, f'[data-model="{model}"][aria-pressed="true"]'), "the model is chosen")


def ask(browser, **values):
    """Put values into the form's fields, send it, and return the answer as it is read."""
    for name, value in values.items():
        browser.execute_script("document.getElementById('field-' + arguments[0]).value = arguments[1]", name, value)
    browser.find_element("css selector", ".send").click()
    wait_until(lambda: browser.execute_script("return !document.getElementById('result').hidden"), "there is an answer")
    return text_of(browser, "#answer")


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("question_answering", "My name is Rob and I live in Bristol."),
        ("summarization", "The tower is 324 metres tall"),
        ("embeddings", "0.6000, -0.8000"),
        ("echo", "hello"),
    ],
)
def test_the_example_of_every_model_is_filled_in_and_answered(browser, service, model, answer):
    open_playground(browser, service, model)
    assert ask(browser).startswith(answer)
    facts = text_of(browser, "#facts")
    assert "200" in facts
    assert "inference 30.0 ms" in facts
    assert "demo=true" in facts
    assert complaints(browser) == []


def test_a_demo_model_is_said_to_be_one_before_anything_is_asked(browser, service):
    open_playground(browser, service, "embeddings")
    wait_until(lambda: "demo model" in text_of(browser, "#demo"), "the demo is announced")


def test_a_persons_own_text_is_sent_and_never_becomes_markup(browser, service):
    open_playground(browser, service, "echo")
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    assert ask(browser, text=evil) == evil
    assert browser.title != "owned"
    assert browser.find_elements("css selector", "#answer *, #facts img, #raw *, #shell *") == []


def test_a_fault_is_written_under_its_field(browser, service):
    open_playground(browser, service, "question_answering")
    assert ask(browser, question=" ").startswith("question: ")
    assert "white space" in text_of(browser, "#field-question ~ .fault")
    assert "422 INVALID_FIELDS" in text_of(browser, "#facts")


def test_swagger_ui_shows_every_route_and_asks_one(browser, service):
    complaints(browser)
    browser.get(service.url + "/docs")
    wait_until(lambda: len(browser.find_elements("css selector", ".opblock")) == 15, "all routes are there")
    browser.find_element("css selector", "#operations-inference-question_answering .opblock-summary-control").click()
    button = "#operations-inference-question_answering .execute"
    filled = "return document.querySelector('#operations-inference-question_answering textarea')?.value ?? ''"
    wait_until(lambda: "My name is Rob" in browser.execute_script(filled), "the route is open, its example filled in")
    browser.execute_script("document.querySelector(arguments[0]).click()", button)
    live = "#operations-inference-question_answering .live-responses-table"
    wait_until(lambda: "My name is Rob" in text_of(browser, live), "the answer is shown")
    assert "200" in text_of(browser, live)
    assert complaints(browser) == []


def test_nothing_is_loaded_from_anywhere_else(browser, service):
    requested(browser)
    for path in ("/docs", "/playground", "/"):
        browser.get(service.url + path)
        wait_until(lambda: browser.execute_script("return document.readyState") == "complete", "the page is loaded")
    asked = requested(browser)
    assert any(url.endswith("/swagger-ui-bundle.js") for url in asked)
    assert [url for url in asked if not url.startswith((service.url, "data:"))] == []
