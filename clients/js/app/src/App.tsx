/** Which of the page's two faces is shown: the sign-in, or the workspace. */

import { PlayerProvider } from "./player/usePlayer.js";
import { Workspace } from "./shell/Workspace.js";
import { SignInScreen } from "./signin/SignInScreen.js";
import { useAccess, type SignIn } from "./signin/session.js";
import { Said } from "./ui/Said.js";

export function App({ beginning }: { beginning: Promise<SignIn> }) {
  const access = useAccess(beginning);
  switch (access.signIn.state) {
    case "pending":
      return <main className="splash" aria-busy="true" aria-label="Signing in" />;
    case "out":
      return <SignInScreen signIn={access.signIn} onToken={access.useToken} />;
    case "in":
      return (
        <Said>
          <PlayerProvider token={access.signIn.session.token}>
            <Workspace session={access.signIn.session} access={access} />
          </PlayerProvider>
        </Said>
      );
  }
}
