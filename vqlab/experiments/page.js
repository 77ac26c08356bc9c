// A name in the legend shows its lines alone; a second name adds its own.
for (const section of document.querySelectorAll("section")) {
  const buttons = [...section.querySelectorAll(".key button")];
  for (const button of buttons) button.onclick = () => {
    button.ariaPressed = String(button.ariaPressed !== "true");
    const chosen = buttons.filter(one => one.ariaPressed === "true").map(one => one.dataset.group);
    for (const mark of section.querySelectorAll(".plot [data-group]"))
      mark.classList.toggle("off", chosen.length > 0 && !chosen.includes(mark.dataset.group));
  };
}

// A column's head sorts its table; figures by their exact values, and what is no number last.
for (const head of document.querySelectorAll("thead th")) head.onclick = () => {
  const down = head.ariaSort === "ascending";
  for (const other of head.parentNode.cells) other.ariaSort = null;
  head.ariaSort = down ? "descending" : "ascending";
  const key = row => row.cells[head.cellIndex].dataset.v ?? row.cells[head.cellIndex].textContent;
  const compare = (a, b) => {
    const [x, y] = [Number(key(a) || NaN), Number(key(b) || NaN)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || key(a).localeCompare(key(b)) * (down ? -1 : 1);
    return down ? y - x : x - y;
  };
  const body = head.closest("table").tBodies[0];
  body.append(...[...body.rows].sort(compare));
};

// A picture that is too small to read fills the width of the page, and goes back.
for (const picture of document.querySelectorAll("figure img"))
  picture.onclick = () => picture.parentNode.classList.toggle("large");
