// Dark or light, before anything is drawn: what the reader chose last, or else what the system says.

const KEY = 'counterpoint-theme';
const THEMES = ['system', 'light', 'dark'];

function stored() {
  try {
    const theme = localStorage.getItem(KEY);
    return THEMES.includes(theme) ? theme : 'system';
  } catch {
    return 'system';
  }
}

function show(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

show(stored());

document.addEventListener('DOMContentLoaded', () => {
  const choice = document.getElementById('theme');
  choice.value = stored();
  choice.addEventListener('change', () => {
    show(choice.value);
    try {
      localStorage.setItem(KEY, choice.value);
    } catch {
      // It holds until the page is left.
    }
  });
});
