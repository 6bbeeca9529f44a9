// Package witnessing has a node's trail witnessed by its peers, and its peers' by it. The
// rules and formats are those of attest/trail/witness; here is what moves.
//
// Each node shows two keys in one signed value of kind trail, named keys: the one that
// signs its trail, and the one that it cosigns others with, and who vouches for them: the
// region's authority for the first, the first for the second (Record). A Book works out of
// these which rosters there are. A Gatherer, one goroutine, has the newest head cosigned:
//
//	roster changed     remember it beside the trail, have a head signed that names it
//	head not witnessed ask its four witnesses at once; with three cosignatures it is kept
//	                   beside the trail, with a fourth if that comes right away
//	fewer than three   again after a second, then after twice as long, at most 30 s; at once
//	                   when a peer comes back, a new head is signed or the roster changes
//
// What always holds: a head is asked for at most once a second. Nothing waits for a
// witness but the head itself; leaves are recorded meanwhile. The rosters that heads name
// are kept for as long as the trail, <state>/trail/rosters/<hash>, so that whoever has one
// of these folders can judge the cosignatures of others; and what says whose the keys are
// that cosigned, <state>/trail/witnesses/<SHA-256 of the verifier key>.
//
// What it does not do: it neither decides what is cosigned, nor opens streams.
package witnessing
