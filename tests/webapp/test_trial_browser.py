"""A found network tried in a real browser, there or by the server: the same pixels, the same answer as PyTorch's."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from playwright.sync_api import Browser, BrowserContext, Page, expect

from nasengine import export
from nasengine.compact import Network
from nasengine.pixels import square
from nasengine.supernet import architecture
from tests.engine.small import images_for, lived_in, living, random_gains, random_kept, small_plan
from tests.webapp import tiny_network
from tests.webapp.browsing import NARROW, SOON, WIDE, expect_state, listened
from tests.webapp.conftest import CHROMIUM
from tests.webapp.stack import Stack, running
from tests.webapp.story import FILES
from webapp import runtime

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]

RAW = {
    "name": "a family in 2 seconds", "preset": "quick", "data": {"dataset": "digits"},
    "target": {"value": "40%", "also": ["20%"]}, "search": {"epochs": 16},
}  # fmt: skip
RUNTIME = "**/static/vendor/onnxruntime-web-*"
LOCAL = """async ([size, channels, content]) => {
  const { seen } = await import("/static/js/picture.js");
  const file = new Blob([Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0))]);
  return btoa(String.fromCharCode(...(await seen(file, size, channels))));
}"""
ASK = """async ([assets, folder, content]) => {
  const { Local } = await import("/static/js/onnx.js");
  const file = new Blob([Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0))]);
  const { pixels, chances } = await (await Local.open(assets, folder)).ask(file);
  return [btoa(String.fromCharCode(...pixels)), chances];
}"""


@pytest.fixture(scope="module")
def _there() -> None:
    if not runtime.is_there():
        reason = f"onnxruntime-web {runtime.VERSION} is not in static/vendor; run: python manage.py fetch_assets"
        pytest.fail(reason) if shutil.which("npm") else pytest.skip(reason)


@pytest.fixture(scope="module")
def stack(_there: None, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("trial"), settings="tests.webapp.story_settings") as stack:
        yield stack


@pytest.fixture(scope="module")
def search(browser: Browser, stack: Stack) -> tuple[str, list[Any]]:
    """The address of a finished search with two networks, and the cookies of its owner."""
    return searched(browser, stack)


def searched(browser: Browser, stack: Stack) -> tuple[str, list[Any]]:
    context = browser.new_context(base_url=stack.address)
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.goto(stack.link)
    made = page.evaluate(
        """async (raw) => (await fetch("/api/v1/searches", {
          method: "POST", body: JSON.stringify(raw),
          headers: { "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value },
        })).json()""",
        RAW,
    )
    page.goto(made["url"])
    expect(page.locator("try-it")).to_have_count(0)
    expect_state(page, "Finished", 120)
    expect(page.locator("try-it")).to_be_visible()  # it came without a reload
    expect(page.locator("its-mistakes")).to_be_visible()
    found = context.cookies()
    context.close()
    return made["url"], found


@pytest.fixture
def context(browser: Browser, stack: Stack, search: tuple[str, list[Any]]) -> Iterator[BrowserContext]:
    yield from opened(browser, stack, search)


def opened(browser: Browser, stack: Stack, search: tuple[str, list[Any]]) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE, base_url=stack.address)  # type: ignore[arg-type]
    context.add_cookies(search[1])
    context.set_default_timeout(SOON)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, search: tuple[str, list[Any]]) -> Page:
    page = context.new_page()
    page.goto(search[0])
    expect(page.locator("[data-filling]")).to_have_count(0)
    return page


def picture(width: int, height: int, mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    """Noise with soft edges, as photos have them."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    noise = np.random.default_rng(width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    image = Image.fromarray(noise[..., 0] if channels == 1 else noise)
    if kind == "JPEG":
        image = image.filter(ImageFilter.GaussianBlur(max(1, width // 20)))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def local(page: Page, content: bytes, size: int, channels: int = 3) -> NDArray[np.uint8]:
    """The pixels that the browser makes of an image file, [size, size, channels]."""
    found = np.frombuffer(base64.b64decode(page.evaluate(LOCAL, [size, channels, text(content)])), np.uint8)
    return found.reshape(size, size, channels)


def answered(page: Page) -> str:
    expect(page.locator("try-it")).to_have_attribute("aria-busy", "false", timeout=60_000)
    return page.locator("[data-said]").text_content() or ""  # also where it is out of view, and so not laid out


def chances_of(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the story's network says, by onnxruntime in Python."""
    x = (pixels.astype(np.float32) / 255 - np.float32(tiny_network.MEAN)) / np.float32(tiny_network.STD)
    session = onnxruntime.InferenceSession(FILES["model.onnx"], providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": x.reshape(1, 1, 8, 8)})[0][0].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum()


def canvas_pixels(page: Page, canvas: str = "[data-answer] canvas") -> NDArray[np.uint8]:
    """The 8 x 8 grey pixels of a canvas: if nothing else is asked for, of what the page says the network saw."""
    red = page.locator(canvas).evaluate(
        """(canvas) => {
          const copy = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          return Array.from(copy.getImageData(0, 0, 8, 8).data).filter((_, i) => i % 4 === 0);
        }"""
    )
    return np.array(red, dtype=np.uint8).reshape(8, 8)


# The pixels


SIZES = [
    (8, 8), (16, 16), (33, 32), (32, 33), (640, 480), (101, 300), (97, 211), (7, 5), (1, 40), (1023, 767), (300, 2000),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_png_images_become_the_very_pixels_that_training_would_see(page: Page, channels: int) -> None:
    """Cropped, averaged and resized byte for byte as Pillow does, from tiny to large, wide to tall."""
    for width, height in SIZES:
        for mode in ("L", "RGB"):
            content = picture(width, height, mode)
            for size in (8, 32):
                expected = square(content, size, grey=channels == 1)
                expected = expected[..., None] if expected.ndim == 2 else expected
                expected = np.repeat(expected, channels // expected.shape[-1], axis=2)
                assert np.array_equal(local(page, content, size, channels), expected), (width, height, mode, size)


def test_photos_become_nearly_the_same_pixels(page: Page) -> None:
    """Training decodes a large JPEG at a fraction of its size, a browser decodes all of it: no value is more than 6 of
    255 apart, and on average less than 1."""
    for width, height, options in (
        (640, 480, {}), (900, 1200, {"subsampling": 0}), (300, 200, {}), (1600, 1200, {"quality": 60}),
    ):  # fmt: skip
        content = picture(width, height, "RGB", "JPEG", **options)
        for size in (16, 32):
            apart = np.abs(local(page, content, size).astype(int) - square(content, size))
            assert apart.max() <= 6 and apart.mean() < 1, (width, size, apart.max(), apart.mean())


def test_photos_are_upright_and_on_white(page: Page) -> None:
    """EXIF orientation is obeyed; what is transparent is blended to within 1 of 255."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for content, most in (
        (picture(200, 100, "RGB", "JPEG", exif=turned), 6),
        (picture(60, 40, "RGBA"), 1),
    ):
        apart = np.abs(local(page, content, 16).astype(int) - square(content, 16))
        assert apart.max() <= most


# In the browser


@pytest.mark.parametrize("channels", [1, 3])
def test_the_browser_says_what_pytorch_says(page: Page, stack: Stack, channels: int) -> None:
    """A larger network, in a folder of the search's: the same likeliest class, and chances within 1e-3."""
    plan = small_plan(cells_=3, channels=6, nodes=2, reductions=(1,), image_size=16, colours=channels, classes=4)
    net = lived_in(plan, seed=channels, dtype=torch.float32).eval()
    net.commit(random_kept(plan, 2))
    header = {"classes": list("abcd"), "mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.3, 0.25][:channels]}
    found = architecture(plan, net.kept)
    gains = living(net, random_gains(plan, 3, torch.float32))
    network: Network = export.compact_network(net, found, gains, header)
    folder = next((stack.folder / "media" / "runs").iterdir()) / "family"
    folder = next(folder.iterdir())
    before = {name: (folder / name).read_bytes() for name in ("model.onnx", "architecture.json")}
    try:
        export.write_onnx(network, images_for(plan, dtype=torch.float32), folder / "model.onnx")
        (folder / "architecture.json").write_text(json.dumps(dict(network.architecture)))
        told = json.loads(page.locator("try-it script").text_content() or "")
        for content in (picture(150, 90), picture(16, 16, "L"), picture(31, 64)):
            files = told["networks"][1]["files"]
            pixels, chances = page.evaluate(ASK, [told["assets"], files, text(content)])
            seen = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(16, 16, channels)
            with torch.no_grad():
                expected = network(network.preprocess(torch.tensor(seen))).softmax(1)[0]
            assert chances == pytest.approx(expected.tolist(), abs=1e-3)
            assert int(np.argmax(chances)) == int(expected.argmax())
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)


def test_nothing_is_fetched_before_somebody_tries_and_then_the_page_says_it_all(
    page: Page, search: tuple[str, list[Any]]
) -> None:
    said, asked = listened(page.context), []
    page.on("request", lambda request: asked.append((request.method, request.url)))
    page.reload()
    page.locator("try-it").scroll_into_view_if_needed()
    expect(page.locator("[data-example] canvas").first).to_have_attribute("width", "8")
    assert not any("onnxruntime" in url or "model.onnx" in url for _, url in asked)
    slow = {"latency": 20, "downloadThroughput": 4_000_000, "uploadThroughput": -1, "offline": False}
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", slow)
    page.locator("[data-example]").nth(3).click()
    expect(page.locator("[data-fetched]")).to_contain_text("MB of 14.2 MB")
    sentence = answered(page)
    expect(page.locator("[data-fetching]")).to_be_hidden()
    chances = chances_of(canvas_pixels(page))
    best = np.argsort(-chances)[:5]
    assert sentence.startswith(f"It says {best[0]}, {100 * chances[best[0]]:.1f} % sure.")
    assert ("That is right." if best[0] == 3 else "That is wrong: it is 3.") in sentence
    rows = [item.split("\n") for item in page.locator(".guesses li").all_inner_texts()]
    assert rows == [[str(n), f"{100 * chances[n]:.1f} %"] for n in best]
    expect(page.locator("[data-time]")).to_contain_text("in this browser, on this device: the median of")
    sheet = np.asarray(Image.open(io.BytesIO(FILES["pictures.png"])))
    assert np.array_equal(canvas_pixels(page), sheet[:8, 24:32])
    assert not any(method == "POST" for method, _ in asked), "the image stays here"
    assert said == []


def test_an_image_is_chosen_or_dropped_and_another_network_asked_about_it(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(picture(101, 300))
    page.get_by_label("Drop an image here, or choose one").set_input_files(file)
    first = answered(page)
    assert np.array_equal(canvas_pixels(page), square(file.read_bytes(), 8, grey=True))
    assert "That is" not in first, "nobody knows what it is"
    with page.expect_response("**/family/*/model.onnx"):
        page.get_by_label("Network", exact=True).select_option(index=1)
    assert answered(page) == first, "in the story all networks are one"
    page.evaluate(
        """(content) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0));
          transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
          const drop = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
          document.querySelector("try-it .drop").dispatchEvent(drop);
        }""",
        text(picture(20, 20)),
    )
    answered(page)
    assert np.array_equal(canvas_pixels(page), square(picture(20, 20), 8, grey=True))


def test_what_is_no_image_is_said_and_the_next_one_works(page: Page, tmp_path: Path) -> None:
    """Nothing is left of the image before: neither its answer nor the mark of where it came from."""
    (tmp_path / "words.png").write_text("just words")
    page.locator("[data-example]").first.click()
    answered(page)
    expect(page.locator("[data-example]").first).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Drop an image here, or choose one").set_input_files(tmp_path / "words.png")
    answered(page)
    expect(page.locator("[data-example][aria-pressed=true]")).to_have_count(0)
    expect(page.locator("[data-answer]")).to_be_hidden()
    expect(page.locator("[data-said]")).to_be_empty()
    problem = page.locator("try-it .problem")
    expect(problem).to_have_text("'words.png' is not an image that this browser can read; take a JPEG, PNG or WebP.")
    page.locator("[data-example]").first.click()
    assert answered(page).startswith("It says")
    expect(problem).to_be_empty()


def test_the_keyboard_is_enough_and_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page.locator("[data-example]").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert answered(page).startswith("It says")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_a_swap_does_not_reset_what_somebody_uses(page: Page) -> None:
    swap = "async () => { await (await import('/static/js/swap.js')).swap(['tryit', 'mistakes']); }"
    page.locator("[data-example]").first.click()
    before = answered(page)
    page.evaluate(swap)
    assert page.locator("[data-said]").inner_text() == before


# The camera


def test_without_a_camera_a_sentence_says_so(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("try-it .problem")).to_have_text(
        "There is no camera on this device; choose a photo."
        if page.evaluate(
            "navigator.mediaDevices.enumerateDevices().then((all) => all.every((one) => one.kind !== 'videoinput'))"
        )
        else "The camera was refused. Allow it beside the browser's address line, or choose a photo."
    )
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("try-it .problem")).to_have_text(
        "A browser gives a page the camera over HTTPS alone, or on the machine itself; choose a photo."
    )


@pytest.mark.parametrize("allowed", [True, False])
def test_the_camera_opens_after_a_click_and_closes_with_the_picture(
    browser: Browser, stack: Stack, search: tuple[str, list[Any]], allowed: bool
) -> None:
    fake = [*CHROMIUM, "--use-fake-device-for-media-stream"]
    with_camera = browser.browser_type.launch(executable_path=chromium(), args=fake)
    try:
        for context in opened(with_camera, stack, search):
            if allowed:
                context.grant_permissions(["camera"])
            page = context.new_page()
            page.goto(search[0])
            page.get_by_role("button", name="Use the camera").click()
            if not allowed:
                expect(page.locator("try-it .problem")).to_contain_text("The camera was refused.")
                continue
            video = page.get_by_label("What the camera sees")
            expect(video).to_be_visible()
            expect(video).not_to_have_js_property("videoWidth", 0)
            page.evaluate("window.track = document.querySelector('try-it video').srcObject.getTracks()[0]")
            page.get_by_role("button", name="Take the picture").click()
            assert answered(page).startswith("It says")
            expect(video).to_be_hidden()
            assert page.evaluate("track.readyState") == "ended"
            expect(page.get_by_role("button", name="Use the camera")).to_be_focused()
    finally:
        with_camera.close()


PROMPTED = """() => {
  window.tracks = [];
  window.prompts = [];
  navigator.mediaDevices.getUserMedia = () => new Promise((allow) => prompts.push(() => {
    const canvas = document.createElement("canvas");
    canvas.getContext("2d").fillRect(0, 0, 8, 8);
    const stream = canvas.captureStream();
    tracks.push(...stream.getTracks());
    allow(stream);
  }));
}"""
"""A camera whose prompt stays open until the test allows it."""


def test_a_second_click_while_the_browser_asks_opens_no_second_camera(page: Page) -> None:
    page.evaluate(PROMPTED)
    for _ in range(2):
        page.get_by_role("button", name="Use the camera").click()
    page.evaluate("for (const allow of prompts) allow()")
    page.get_by_role("button", name="Close the camera").click()
    expect(page.get_by_label("What the camera sees")).to_be_hidden()
    assert page.evaluate("tracks.map((track) => track.readyState)") == ["ended"]
    page.get_by_role("button", name="Use the camera").click()
    assert page.evaluate("prompts.length") == 2, "closed, it may be opened again"


def test_a_camera_that_is_allowed_after_the_part_was_renewed_is_closed_at_once(page: Page) -> None:
    page.evaluate(PROMPTED)
    page.get_by_role("button", name="Use the camera").click()
    page.evaluate("const old = document.querySelector('try-it'); old.replaceWith(old.cloneNode(true))")
    page.evaluate("prompts[0]()")
    page.evaluate("new Promise((done) => { tracks[0].readyState === 'ended' ? done() : setTimeout(done, 500); })")
    assert page.evaluate("tracks[0].readyState") == "ended"
    expect(page.get_by_label("What the camera sees")).to_be_hidden()


def chromium() -> str:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"


# By the server


CANNOT = "This browser cannot run the network, so the server does; your image is not kept."


def test_a_browser_that_cannot_run_it_asks_the_server_from_then_on(page: Page) -> None:
    page.add_init_script("delete globalThis.WebAssembly")
    page.reload()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for turn in range(2):
        page.locator("[data-example]").nth(turn).click()
        assert answered(page).startswith("It says")
        expect(page.locator("[data-time]")).to_contain_text("on the server")
        expect(page.locator("[data-where]")).to_have_text(CANNOT)
    assert sum("model.onnx" in url for url in asked) == 1


def test_a_network_that_fails_in_the_browser_is_asked_on_the_server(page: Page) -> None:
    """It opens, but does not run: here because it is told of images of another size."""
    wrong = json.loads(FILES["architecture.json"]) | {"image_size": 9}
    page.route("**/architecture.json", lambda route: route.fulfill(json=wrong))
    page.locator("[data-example]").first.click()
    assert answered(page).startswith("It says")
    expect(page.locator("try-it .problem")).to_be_empty()
    expect(page.locator("[data-time]")).to_contain_text("on the server")
    expect(page.locator("[data-where]")).to_have_text(CANNOT)


@pytest.mark.parametrize("away", ["**/model.onnx", f"{RUNTIME}/*.wasm", f"{RUNTIME}/*.mjs"])
@pytest.mark.parametrize("status", [None, 502])
def test_what_cannot_be_fetched_for_a_moment_is_tried_again(page: Page, away: str, status: int | None) -> None:
    where, before = page.locator("[data-where]"), page.locator("[data-where]").inner_text()
    page.route(away, lambda route: route.fulfill(status=status) if status else route.abort())
    page.locator("[data-example]").first.click()
    assert answered(page).startswith("It says")
    expect(page.locator("[data-time]")).to_contain_text("on the server")
    expect(where).to_have_text(
        "What runs the network could not be fetched just now, so the server answered; your image is not kept. The next "
        "one is tried here again."
    )
    page.unroute(away)
    page.locator("[data-example]").first.click()
    expect(page.locator("[data-time]")).to_contain_text("in this browser", timeout=60_000)
    assert answered(page).startswith("It says")
    expect(where).to_have_text(before)


@pytest.mark.long
def test_where_npm_brought_nothing_the_server_answers(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, settings="tests.webapp.server_trial_settings") as stack:
        search = searched(browser, stack)
        for context in opened(browser, stack, search):
            said, page, asked = listened(context), context.new_page(), []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(search[0])
            expect(page.locator("[data-where]")).to_have_text(
                "The server runs the network and answers; your image is not kept."
            )
            (tmp_path / "photo.jpg").write_bytes(picture(640, 480, "RGB", "JPEG"))
            page.get_by_label("Drop an image here, or choose one").set_input_files(tmp_path / "photo.jpg")
            sentence = answered(page)
            seen = square((tmp_path / "photo.jpg").read_bytes(), 8, grey=True)
            assert np.array_equal(canvas_pixels(page), seen)
            chances = chances_of(seen)
            assert sentence == f"It says {chances.argmax()}, {100 * chances.max():.1f} % sure."
            expect(page.locator("[data-time]")).to_contain_text("on the server")
            page.locator("[data-example]").nth(2).click()
            assert "it is 2." in answered(page) or "That is right." in answered(page)
            assert not any("onnxruntime" in url for url in asked)
            assert said == []
            (tmp_path / "words.png").write_text("just words")
            page.get_by_label("Drop an image here, or choose one").set_input_files(tmp_path / "words.png")
            answered(page)
            expect(page.locator("try-it .problem")).to_have_text(
                "This image cannot be used: it is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)."
            )


# What it gets wrong


def test_a_number_of_the_table_shows_its_pictures(page: Page) -> None:
    part = page.locator("its-mistakes")
    part.scroll_into_view_if_needed()
    expect(part.locator("[data-title]")).to_have_text("The 5 mistakes it was surest of")
    expect(part.locator(".wrong li").first).to_contain_text("8 → 1")
    button = part.locator("button[data-true='8'][data-predicted='1']")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(part.locator("[data-title]")).to_have_text("8 taken for 1: 3 images")
    items = part.locator(".wrong li")
    expect(items).to_have_count(3)
    expect(items.nth(1)).to_contain_text("88 % sure")
    expect(items.nth(1).locator("canvas")).to_have_attribute("width", "8")
    sheet = np.asarray(Image.open(io.BytesIO(FILES["pictures.png"])))
    assert np.array_equal(canvas_pixels(page, ".wrong li:nth-child(2) canvas"), sheet[8:16, 8:16])
    part.get_by_role("button", name="Show those it was surest of").click()
    expect(items).to_have_count(5)
