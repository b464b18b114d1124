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
};
