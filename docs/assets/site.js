// A block or a table that is wider than the page can be reached and scrolled with the keyboard.
document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap, .md-typeset pre").forEach((box) => {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
});
