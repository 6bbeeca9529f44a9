package fact

import (
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Kinds whose bodies come in several forms are told in words in each of them.
func TestSentences(t *testing.T) {
	for _, c := range []struct {
		kind trail.Kind
		body map[string]any
		want string
	}{
		{trail.AuthorityEpoch, map[string]any{"node": "spiffe://e.example/node/a", "epoch": uint64(3), "spare": uint64(4), "class": "node", "by": "spiffe://e.example/node/b"},
			"gave spiffe://e.example/node/a epoch 3, spare 4, class node, asked by spiffe://e.example/node/b"},
		{trail.AuthorityEpoch, map[string]any{"node": "spiffe://e.example/node/a", "epoch": uint64(3), "spare": uint64(4), "class": "node"},
			"gave spiffe://e.example/node/a epoch 3, spare 4, class node"},
		{trail.AuthorityEpoch, map[string]any{"floor": uint64(1000)}, "everything given out before is void: epochs begin above 1000"},
		{trail.AuthorityPublish, map[string]any{"kind": "service", "level": "regional", "name": "shop", "version": uint64(2), "digest": "0123456789abcdef0123456789abcdef"},
			"published regional service shop, version 2, digest 0123456789abcdef"},
		{trail.AuthorityPublish, map[string]any{"kind": "roster", "level": "regional", "version": uint64(2)}, "published regional roster, version 2"},
		{trail.AuthorityPublish, map[string]any{"what": "frontier", "for": "east"}, "published frontier for east"},
		{trail.IssuerAttest, map[string]any{"type": "join_token", "from": "127.0.0.1:1", "ok": false, "why": "spent"},
			"judged evidence by join_token, from 127.0.0.1:1: good false: spent"},
		{trail.IssuerAttest, map[string]any{"type": "join_token", "agent": "spiffe://e.example/node/a", "from": "127.0.0.1:1", "ok": true},
			"judged evidence of spiffe://e.example/node/a by join_token, from 127.0.0.1:1: good true"},
		{trail.IssuerRefuse, map[string]any{"what": "node", "to": "spiffe://e.example/node/a", "id": "spiffe://e.example/node/b", "why": "not its own"},
			"refused spiffe://e.example/node/a node for spiffe://e.example/node/b: not its own"},
		{trail.PeerRelease, map[string]any{"release": "spiffe://e.example/node/a", "epoch": uint64(5), "reason": "a copy ran", "repeat": "not for the first time"},
			"spiffe://e.example/node/a was released, from epoch 5: a copy ran, not for the first time"},
		{trail.PeerRelease, map[string]any{"release": "spiffe://e.example/node/a", "epoch": uint64(5), "reason": "a copy ran", "approved_by": "c0ffee, decade"},
			"spiffe://e.example/node/a was released, from epoch 5: a copy ran, approved by c0ffee, decade"},
		{trail.PeerRelease, map[string]any{"revocation": "spiffe://e.example/node/a", "reason": "stolen"}, "spiffe://e.example/node/a was revoked: stolen"},
		{trail.PeerRelease, map[string]any{"rollback": "spiffe://e.example/node/a", "to": "record 40 of epoch 2, until epoch 4", "reason": "a bad push"},
			"the state of spiffe://e.example/node/a went back to record 40 of epoch 2, until epoch 4: a bad push"},
		{trail.PeerStanding, map[string]any{"id": "spiffe://e.example/node/a", "from": "ok", "to": "quarantined", "reason": "equivocation", "cut": "cut 1 link, the last after 2ms"},
			"spiffe://e.example/node/a went from ok to quarantined: equivocation; cut 1 link, the last after 2ms"},
		{trail.PeerRelease, map[string]any{"segments": "spiffe://e.example/node/a", "parts": "all but x-route, x-temp/hold", "reason": "a bad push"},
			"of the state of spiffe://e.example/node/a, all but x-route, x-temp/hold counts: a bad push"},
		{trail.PeerAppeal, map[string]any{"appeal": "spiffe://e.example/node/a", "note": "a copy ran"}, "spiffe://e.example/node/a appeals: a copy ran"},
		{trail.PeerAppeal, map[string]any{"appeal": "spiffe://e.example/node/a", "note": "it is mended", "unattested": "it has no TPM", "by": "spiffe://e.example/node/b"},
			"spiffe://e.example/node/a appeals: it is mended, unattested, as it has no TPM, before spiffe://e.example/node/b"},
		{trail.PeerAccuse, map[string]any{"accused": "spiffe://e.example/node/a", "class": "attestation-stale", "what": "silent for 30s", "until": int64(1795348800)},
			"accused spiffe://e.example/node/a of attestation-stale until 2026-11-22T12:00:00Z: silent for 30s"},
		{trail.PeerAccuse, map[string]any{"accused": "spiffe://e.example/node/a", "class": "attestation-stale", "withdrawn": true},
			"took back that it accused spiffe://e.example/node/a of attestation-stale"},
	} {
		if got := sentence(c.kind.Name(), c.body); got != c.want {
			t.Errorf("%s %v:\n%q, want\n%q", c.kind, c.body, got, c.want)
		}
	}
}
