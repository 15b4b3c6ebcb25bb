/** Which of the page's two faces is shown: the sign-in, or the workspace. */

import { SignInScreen } from "./SignInScreen.js";
import { useAccess, type SignIn } from "./session.js";
import { Workspace } from "./Workspace.js";

export function App({ beginning }: { beginning: Promise<SignIn> }) {
  const access = useAccess(beginning);
  switch (access.signIn.state) {
    case "pending":
      return <main className="splash" aria-busy="true" aria-label="Signing in" />;
    case "out":
      return <SignInScreen signIn={access.signIn} onToken={access.useToken} />;
    case "in":
      return <Workspace session={access.signIn.session} access={access} />;
  }
}
