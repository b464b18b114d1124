"""What the tabs do: one file of handlers a tab, apart from the page that shows them."""
