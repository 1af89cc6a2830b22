"use strict";
(() => {
  const table = document.querySelector(".results");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];

  const sortBy = (column, direction) => {
    const text = heads[column].dataset.kind === "text";
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // unknown comes last either way
      return direction * (text ? x.localeCompare(y) : Number(x) - Number(y));
    });
    body.append(...rows);
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.kind === "text" ? 1 : -1;
      sortBy(column, now ? (now === "ascending" ? -1 : 1) : first);
    });
  });

  const copy = document.getElementById("copy");
  const command = document.getElementById("command");
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(command);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  };
  copy.hidden = false;
  copy.setAttribute("aria-live", "polite");
  copy.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(copy.dataset.command);
    } catch {
      done = select();
    }
    copy.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
})();
