"""Send: from a due row to a reply, over SMTP whose stage is always known."""
