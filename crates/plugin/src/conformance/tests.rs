//! The suite itself: that it finds what is wrong with backends that are wrong in one thing each.
