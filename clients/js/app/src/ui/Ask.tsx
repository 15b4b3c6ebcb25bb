/** A window over the page: a question, or something to read. */

import type { ReactNode } from "react";
import { Dialog, Heading, Modal, ModalOverlay } from "react-aria-components";

interface Props {
  title: string;
  role?: "alertdialog" | "dialog";
  isOpen: boolean;
  isWide?: boolean;
  onClose: () => void;
  children: ReactNode;
}

export function Ask({ title, role = "dialog", isOpen, isWide = false, onClose, children }: Props) {
  return (
    <ModalOverlay className="veil" isOpen={isOpen} onOpenChange={(open) => open || onClose()} isDismissable>
      <Modal className={isWide ? "modal wide" : "modal"}>
        <Dialog role={role} className="dialog">
          <Heading slot="title">{title}</Heading>
          {children}
        </Dialog>
      </Modal>
    </ModalOverlay>
  );
}
