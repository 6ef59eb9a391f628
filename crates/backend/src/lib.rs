//! The boundary every device implements, the reference implementation and the case lists.
