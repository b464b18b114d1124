() => {
  // Gradio gives the pictures of its before/after sliders and of its examples no alternative text.
  const texts = {
    compare: ["The aligned photo", "Its reconstruction"],
    edited: ["Before the edit", "After the edit"],
    styled: ["Without the domains", "With the domains"],
    examples: ["Example photo: an astronaut"],
  };
  const describe = () => {
    for (const [id, names] of Object.entries(texts)) {
      document.querySelectorAll(`#${id} img`).forEach((picture, i) => {
        if (!picture.alt) picture.alt = names[i % names.length];
      });
    }
  };
  new MutationObserver(describe).observe(document.body, { childList: true, subtree: true });
  describe();

  // On a phone what a button starts would happen below the fold.
  const results = { run: ["compare", "note"], examples: ["compare", "note"], "adapt-run": ["preview", "adapt-note"] };
  document.addEventListener("click", (click) => {
    for (const [id, [top, bottom]] of Object.entries(results)) {
      if (!click.target.closest?.(`#${id}`)) continue;
      const below = document.getElementById(bottom)?.getBoundingClientRect().bottom > window.innerHeight;
      const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      const shown = document.getElementById(top);
      if (below) shown?.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
    }
  });
};
