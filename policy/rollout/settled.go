package rollout

// Settled reports whether a record that a newer staged one overtook is what holds until the newer's
// rings begin: of the nodes that are heard and do not enforce the newer one, more than half enforce it.
// A node that was away while its rings began takes it then, without waiting for them. A minority that
// lies brings nobody onto a version that was stopped; a majority that enforces it keeps nobody back.
func Settled(peers []Peer, record, newer [8]byte) bool {
	same, other := 0, 0
	for _, p := range peers {
		switch {
		case !p.Heard || p.Enforces == [8]byte{} || p.Enforces == newer:
		case p.Enforces == record:
			same++
		default:
			other++
		}
	}
	return same > other
}
