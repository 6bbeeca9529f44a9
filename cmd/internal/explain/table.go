package explain

import "slices"

// table holds every code. The first sentinel found in an error's chain names
// it, so this is the order of matching: what belongs to one command or one
// peer's case before the packages it is built from, and the signed envelope,
// which nearly everything wraps, last. Inside an area the same holds line by
// line. The numbers have nothing to do with the order and never change.
var table = slices.Concat(
	wiring, command, dev, quarantined, auditing, payloads, witnesses, storage, tunnels, machines, identities, kept, state, links, travelling, policies, authorities, envelope,
)
