//! Every command of leno as a library; output is data first, text second.
