// Before the first paint: the colours that the reader chose, if any. Loaded as a plain script, so that nothing flashes.
{
  const chosen = localStorage.getItem("voicespan.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
