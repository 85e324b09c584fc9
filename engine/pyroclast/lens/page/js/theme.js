// Light, dark, or as the system says; the button goes through the three.

const CHOICES = ["system", "light", "dark"];
const KEY = "pyroclast-look-theme";

export function startTheme(button) {
  let choice = stored();
  const show = () => {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    button.textContent = { system: "Theme: auto", light: "Theme: light", dark: "Theme: dark" }[choice];
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    store(choice);
    show();
  });
  show();
}

// A page from disk, or one without permission to store, keeps no choice.
function stored() {
  try {
    const found = localStorage.getItem(KEY);
    return CHOICES.includes(found) ? found : "system";
  } catch {
    return "system";
  }
}

function store(choice) {
  try {
    localStorage.setItem(KEY, choice);
  } catch {
    console.info("the choice of colours lasts for this visit only");
  }
}
