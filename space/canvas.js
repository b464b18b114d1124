// What Gradio runs once the canvas is there: `element`, `props`, `trigger` and `watch` are its names.
// Events: "undo", "redo", "reset", "place", "save", "stop", "ask", "settle", "draw", "panel".
const find = (what) => element.querySelector(what);
const frame = find(".frame"), before = find(".before"), after = find(".after");
const view = {};
let moving = false, resting; // whether a control moved after the last button; the timer that says when it has stopped

const split = (share) => {
  view.split = Math.min(1, Math.max(0, share));
  frame.style.setProperty("--split", view.split);
  frame.setAttribute("aria-valuenow", Math.round(100 * view.split));
};

// A new picture takes the place of the old one when it is decoded: nothing flickers.
const put = (image, address) => {
  if (!address || image.dataset.address === address) return;
  image.dataset.address = address;
  const next = new Image();
  next.onload = () => image.dataset.address === address && (image.src = address);
  next.src = address;
};

const show = () => {
  const news = props.value || {};
  if (news.preview && !moving) return; // of a control that was moved before a button was pressed
  if (news.photo !== undefined && news.photo !== (view.photo ?? null)) trigger("panel");
  Object.assign(view, news);
  put(after, news.after);
  put(before, news.before);
  if (view.ready) frame.dataset.ready = "";
  if (view.names) [before.alt, after.alt] = view.names;
  for (const event of ["undo", "redo"]) find(`[data-event=${event}]`).disabled = !view[event];
  find("[data-event=reset]").disabled = view.plain !== false;
  const place = find("[data-event=place]");
  place.hidden = view.whole === null || view.whole === undefined;
  place.setAttribute("aria-pressed", view.whole === true);
  if (view.note !== undefined && find(".note").dataset.told !== view.note) {
    find(".note").innerHTML = find(".note").dataset.told = view.note;
  }
  if (news.progress) tell(news.progress);
  if (news.alive) heard();
  if (news.stopping) {
    bar.stopping = true;
    paint();
  }
  if (news.link) find(".stays").hidden = true;
  if (news.save) {
    saving();
    const { href, name } = news.save; // or none, where no file was made
    if (href) Object.assign(document.createElement("a"), { href, download: name }).click();
  }
};

// --- The bar ---
// It is of one reading, which ends with a bar that says nothing. What comes late, of an earlier reading or of one that
// ended, is dropped. Of a bar that stands still it is asked whether its reading goes on; without an answer it goes away.
const AFTER = 2; // what follows the steps, drawing at full size and comparing, takes as long as so many of them
let bar = { reading: 0 }, began, ends, silence;
const goes = () => bar.text || bar.steps !== undefined;

const tell = (news) => {
  const same = news.reading === bar.reading, now = performance.now();
  if (news.reading < bar.reading || (same && !goes())) return;
  if (!same || news.step < 2) [began, ends] = [now, undefined];
  if (news.step > 1) ends = now + (now - began) / (news.step - 1) * (news.steps - news.step + 1 + AFTER);
  bar = { ...news, stopping: same && bar.stopping };
  heard();
};
const heard = () => {
  clearTimeout(silence);
  find(".progress").hidden = !goes();
  if (!goes()) return;
  silence = setTimeout(ask, 5000);
  paint();
};
const ask = () => {
  silence = setTimeout(() => { find(".progress").hidden = true; }, 5000);
  trigger("ask");
};
const paint = () => {
  const now = performance.now(), left = Math.max(1, Math.round((ends - now) / 1000));
  const step = bar.step ? `Step ${bar.step} of ${bar.steps}` : `A first likeness; ${bar.steps} step${bar.steps === 1 ? "" : "s"} to go`;
  const text = bar.stopping ? "Stopping; what was reached is kept" : bar.text || step;
  find(".progress .text").textContent = ends && !bar.stopping ? `${text} · about ${left} s left` : text;
  find(".progress .share").style.width = `${ends ? Math.min(100, 100 * (now - began) / (ends - began)) : 0}%`;
};
setInterval(() => find(".progress").hidden || paint(), 1000);

// While a file is made its button says so, and no other one is asked for.
const saving = (kind) => {
  for (const button of element.querySelectorAll("[data-event=save]")) {
    button.disabled = kind !== undefined;
    button.setAttribute("aria-busy", button.dataset.kind === kind);
  }
};

// --- Where 0 is on a slider, and which tiles of the gallery are chosen: style.css shows it. They come when their panel
// is opened ---
new MutationObserver(() => {
  for (const bar of document.querySelectorAll("#groups input[type=range]")) {
    bar.parentElement.style.setProperty("--zero", `${(100 * bar.min) / (bar.min - bar.max)}%`);
  }
  const chosen = [...document.querySelectorAll("#chosen .token > span")].map((name) => name.textContent);
  for (const tile of document.querySelectorAll("#domains button:has(img)")) {
    tile.ariaPressed = chosen.includes(tile.querySelector("img").alt);
  }
}).observe(document.body, { childList: true, subtree: true });

// --- Files. What the browser takes for no picture, such as one of an iPhone, and what is too large, Gradio turns away
// in words of its own. Here all are handed on, of a large one as much as is looked at: the server tells what is wrong ---
const toHandOn = (files) => {
  const given = new DataTransfer();
  for (const file of files) {
    const name = file.name.replace(/\.svg$/i, "$&.xml"); // or Gradio would send what is in it as an address
    given.items.add(new File([file.slice(0, props.most + 1)], name, { type: "image/any" }));
  }
  return given.files;
};
const FILES = ":is(#photo, #pictures, #bring)";
document.addEventListener("change", ({ target }) => {
  if (target.matches(`${FILES} input[type=file]`)) target.files = toHandOn(target.files);
}, true);
document.addEventListener("drop", (event) => {
  if (!event.target.closest?.(FILES)) return;
  Object.defineProperty(event, "dataTransfer", { value: { files: toHandOn(event.dataTransfer.files) } });
}, true);

// A photo that browsers do not show, such as a TIFF, is read all the same: its box says so instead of a broken picture.
for (const kind of ["error", "load"]) {
  document.addEventListener(kind, ({ target }) => {
    if (target.matches?.("#photo img")) target.classList.toggle("unseen", kind === "error");
  }, true);
}

window.unlessBroken = (file) => {
  const shown = document.querySelector("#photo img");
  return shown?.complete && !shown.naturalWidth ? null : file;
};

// --- A number that is typed beside a slider. While its box is empty, or holds what is beyond an end, Gradio would refuse
// it in words of its own: it hears of it when the number is whole ---
const barOf = (box) => box.matches?.("#tabs input[type=number]") && box.closest(".block").querySelector("input[type=range]");
document.addEventListener("input", (event) => {
  const box = event.target, bar = barOf(box);
  if (bar && (box.value === "" || +box.value < +bar.min || +box.value > +bar.max)) event.stopPropagation();
}, true);
document.addEventListener("change", ({ target }) => {
  const bar = barOf(target);
  if (!bar) return;
  target.value = target.value === "" ? bar.value : Math.min(bar.max, Math.max(bar.min, target.value));
  target.dispatchEvent(new Event("input", { bubbles: true }));
}, true);

// --- Before and after ---
const at = (event) => {
  const box = frame.getBoundingClientRect();
  split((event.clientX - box.left) / box.width);
};
frame.addEventListener("pointerdown", (event) => {
  if (event.target.closest("button")) return;
  frame.setPointerCapture(event.pointerId);
  at(event);
});
frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && at(event));
frame.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -0.05, ArrowRight: 0.05, Home: -1, End: 1 }[event.key];
  if (step) { split(view.split + step); event.preventDefault(); }
});
const hold = find("[data-hold]");
const held = (yes) => frame.classList.toggle("held", yes);
for (const name of ["pointerdown", "pointerup", "pointerleave", "pointercancel", "blur"]) {
  hold.addEventListener(name, () => held(name === "pointerdown"));
}
hold.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && held(true));
hold.addEventListener("keyup", () => held(false));

// --- Buttons ---
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-event]");
  if (button) act(button.dataset.event, button.dataset.kind);
});
find("[data-copy]").addEventListener("click", async (event) => {
  const button = event.currentTarget, name = button.textContent, stays = find(".stays");
  stays.textContent = view.stays;
  stays.hidden = !view.stays;
  const address = location.origin + location.pathname + (view.link || "");
  try { await navigator.clipboard.writeText(address); } catch { return prompt("The link", address); } // only https may copy
  [button.textContent, button.ariaLabel] = ["✓", "Copied"]; // no wider than the name: the buttons stay in one row
  setTimeout(() => { [button.textContent, button.ariaLabel] = [name, null]; }, 1500);
});
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input:not([type=range]), textarea")) return;
  act(event.shiftKey ? "redo" : "undo");
  event.preventDefault();
});

// --- The controls are at rest when none has moved for a while, and before the page is ready nobody would hear of it ---
const settle = () => {
  resting = view.ready ? undefined : setTimeout(settle, 350);
  if (view.ready) trigger("settle");
};
const moved = (event) => {
  if (!event.target.closest?.(".control")) return;
  moving = true;
  clearTimeout(resting);
  resting = setTimeout(settle, 350);
};
const act = (name, kind = "") => {
  if (name === "stop") return trigger(name);
  if (name === "save") saving(kind);
  trigger(name, { kind, moving: resting !== undefined });
  clearTimeout(resting);
  resting = undefined;
  moving = false;
};
document.addEventListener("input", moved);
// A slider of Edit goes back to 0. Gradio's button would take it back to what it had when its panel was opened.
for (const [kind, what] of [["click", "[data-testid=reset-button]"], ["dblclick", "input[type=range]"]]) {
  document.addEventListener(kind, (event) => {
    const bar = event.target.closest?.(`#groups ${what}`)?.closest(".control").querySelector("input[type=range]");
    if (!bar) return;
    event.stopPropagation();
    bar.value = 0;
    bar.dispatchEvent(new Event("input", { bubbles: true }));
  }, true);
}

document.addEventListener("changed", () => trigger("draw")); // of the page

watch("value", show);
split(0);
show();
