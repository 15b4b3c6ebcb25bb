import { createRoot } from "react-dom/client";
import { App } from "./App.js";
import { applyTheme } from "./shell/theme.js";
import { beginSession } from "./signin/session.js";
import "./styles/base.css";
import "./styles/controls.css";
import "./styles/shell.css";
import "./styles/record.css";
import "./styles/captions.css";
import "./styles/player.css";
import "./styles/library.css";
import "./styles/alerts.css";

applyTheme();
createRoot(document.getElementById("root")!).render(<App beginning={beginSession()} />);
