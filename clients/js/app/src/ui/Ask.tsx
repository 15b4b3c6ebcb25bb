/** A window over the page: a question, or something to read. */

import type { ReactNode } from "react";
import { Dialog, Heading, Modal, ModalOverlay } from "react-aria-components";

interface Props {
  title: string;
  role?: "alertdialog" | "dialog";
  isOpen: boolean;
  onClose: () => void;
  children: ReactNode;
}

export function Ask({ title, role = "dialog", isOpen, onClose, children }: Props) {
  return (
    <ModalOverlay className="veil" isOpen={isOpen} onOpenChange={(open) => open || onClose()} isDismissable>
      <Modal className="modal">
        <Dialog role={role} className="dialog">
          <Heading slot="title">{title}</Heading>
          {children}
        </Dialog>
      </Modal>
    </ModalOverlay>
  );
}
