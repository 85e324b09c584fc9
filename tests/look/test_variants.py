"""Two settings: the same model with other numbers, and an answer whose penalties go on."""

from __future__ import annotations

from look_page import Watched, until
from pyroclast import LLM, SamplingParams, lens

LINK = "text=Once+upon+a"


def test_the_same_model_with_other_numbers(watched: Watched, llm: LLM) -> None:
    page = watched.open(f"#part=compare&{LINK}&t=0.6&seed=4&v.bt=0.6&v.b_kv_dtype=q8_0")
    params = SamplingParams(temperature=0.6, seed=4)
    with lens.variant(llm, lens.Variant(kv_dtype="q8_0")) as coarse:
        sides = [lens.Setting(each, params) for each in (llm, coarse)]
        found = lens.compare(sides[0], sides[1], "Once upon a", max_tokens=20)
    texts = page.locator(".running-text").all_text_contents()
    assert texts == ["".join(each.text for each in side) for side in (found.a, found.b)]
    rows = page.locator("table:has(caption:has-text('Divergence')) td").all_text_contents()
    assert rows == [f"{x:.4f}" for x in found.kl] and set(rows) != {"0.0000"}
    assert page.get_by_role("heading", name="Second: keys and values q8_0").is_visible()
    assert page.get_by_label("Memory of the text").input_value() == "q8_0"
    page.get_by_label("Memory of the text").select_option("")
    until(page, "!location.hash.includes('b_kv_dtype')")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".figures dd:text-is('0.0000 nats')")


def test_other_numbers_come_with_the_sliders_of_the_first(watched: Watched) -> None:
    page = watched.open(f"#part=compare&{LINK}&t=0.6&seed=4&v.bt=1.5")
    page.get_by_text("Second text: other numbers").click()
    page.get_by_label("Memory of the text").select_option("q8_0")
    until(page, "location.hash.includes('v.b_kv_dtype=q8_0')")
    assert page.input_value("#side-b-temperature") == "0.6"
    page.get_by_label("Kernels").fill("matmul=fortran")
    until(page, "location.hash.includes('fortran')")
    page.get_by_role("button", name="Compare").click()
    page.locator("#notice", has_text="no variant 'fortran'").wait_for()
    assert [fault for fault in watched.faults if "400" not in fault] == []
    watched.faults.clear()  # the browser itself reports the refusal


def test_a_penalty_counts_what_was_written_before_a_step(watched: Watched, llm: LLM) -> None:
    """Twelve tokens at once, then one by one: the text of one request."""
    page = watched.open(f"#part=loop&{LINK}&t=0&pres=1.5&freq=1.5")
    step = page.get_by_role("button", name="Step", exact=True)
    words = page.locator(".running-text button")
    for n in range(13, 21):
        step.click()
        until(page, f"document.querySelectorAll('.running-text button').length === {n}")
    params = SamplingParams(
        temperature=0, presence_penalty=1.5, frequency_penalty=1.5, max_tokens=20
    )
    [whole] = llm.generate("Once upon a", params)
    shown = words.evaluate_all("all => all.map(each => Number(each.dataset.id))")
    assert shown == whole.token_ids
