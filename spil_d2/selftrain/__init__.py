"""From rank lists to pseudo labels, and from pseudo labels to training pairs."""
