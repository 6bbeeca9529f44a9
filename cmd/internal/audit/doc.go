// Package audit answers an auditor's questions from the files of trails. Nothing here
// asks a node or a network, and nothing is written but what was asked for.
//
//	fact        what a leaf says, in words
//	index       where in large trails to look
//	casefile    one question as a portable file that verifies on another machine
//
// Scan reads leaves through a Filter, and Follow those that come. WhoCould, Decided, Claims, Held
// and Changed answer questions; each line of an answer names leaves, and Prove proves these. Diff
// compares what two nodes tell of the same things; SVG and Text draw facts in their order.
//
// Collect chooses the leaves that answer a question, with what is needed to understand
// and prove them. It reads trails as they stand under their present heads, also while
// nodes write them, and verifies only that each leaf it takes is under its head.
package audit
