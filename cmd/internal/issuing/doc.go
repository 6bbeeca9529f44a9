// Package issuing is the issuer's role on a node, and how several issuers of one
// region keep to one authority.
//
//	role, roots, upstream   an identity/issuer server made from the configuration: the
//	                          roots it signs with, or what certifies it
//	entries, evidence       what files say: who is who, and what proves it
//	office                  the side of the region's authority: the one place that gives out
//	                          epochs and endorses
//	branch                  the side of an issuer, on the authority's node or another
//	notices                 what issuers tell each other: JWT keys, bans and evictions
//	keylock                 one process for each folder of keys
//
// A Role has a Branch, and a Branch has the Office itself or a way to it. The protocol
// between the last two is Proto.
//
// What always holds: an issuer signs only with roots of its own trust domain that the
// region's trust record names or will name before it starts; no epoch number is given to
// two keys, whichever issuer was asked; an endorsement is in the trail before it is given
// away. While the authority cannot be reached, an issuer gives out no epochs, and what it
// heard last of the others holds.
//
// The package does not judge evidence (identity/issuer and policy do), and does not open
// the link.
package issuing
