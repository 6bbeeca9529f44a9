(() => {
  const find = document.querySelector(".find"), rows = document.querySelectorAll(".matrix tbody tr");
  find.style.display = "block";
  find.addEventListener("input", () => {
    const want = find.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.firstElementChild.textContent.toLowerCase().includes(want);
  });
})();
