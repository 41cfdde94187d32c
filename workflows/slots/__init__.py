"""Both sides of the slots: the book of the arbiter `SiteSlots`, and the holders' part."""
