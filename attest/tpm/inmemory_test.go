package tpm

import (
	"crypto/elliptic"
	"slices"
	"testing"
)

// attested makes an honest evidence that of a node whose key is in memory.
func attested(t *testing.T, l lie) lie {
	t.Helper()
	hello, proof := l.hello, l.proof
	l.hello = func(f *forger, h *Hello) {
		h.NodeKey, h.NodePub = pkixOf(t, f.node.Public()), nil
		if hello != nil {
			hello(f, h)
		}
	}
	l.proof = func(f *forger, p *Proof) {
		p.Node = Signed{}
		if proof != nil {
			proof(f, p)
		}
	}
	return l
}

func TestKeyInMemory(t *testing.T) {
	f := newForger(t)
	c, err := f.run(t, attested(t, lie{}))
	if err != nil {
		t.Fatal(err)
	}
	if c.Resident || !c.NodeKey.Equal(f.node.Public()) {
		t.Errorf("claims: resident %v, another key %v", c.Resident, !c.NodeKey.Equal(f.node.Public()))
	}
	if c, err := f.run(t, lie{}); err != nil || !c.Resident {
		t.Errorf("resident: %v, %v", c.Resident, err)
	}
}

func TestKeyInMemoryLies(t *testing.T) {
	other := newKey(t, elliptic.P256())
	for rule, list := range map[string][]lie{
		"hello-format": {
			{hello: func(f *forger, h *Hello) { h.NodePub = public(t, residentKey, f.node.Public()) }}, // both
			{hello: func(_ *forger, h *Hello) { h.NodeKey = nil }},                                     // neither
		},
		"node-key-form": {
			{hello: func(_ *forger, h *Hello) { h.NodeKey = []byte{1} }},
			{hello: func(_ *forger, h *Hello) { h.NodeKey = make([]byte, maxPublic+1) }},
			{hello: func(_ *forger, h *Hello) { h.NodeKey = pkixOf(t, newKey(t, elliptic.P384()).Public()) }},
			{hello: func(_ *forger, h *Hello) { h.NodeKey = pkixOf(t, rsaKey().Public()) }},
		},
		"keys-distinct": {{hello: func(f *forger, h *Hello) { h.NodeKey = pkixOf(t, f.ak.Public()) }}},
		"csr-key": {
			{hello: func(_ *forger, h *Hello) { h.NodeKey = pkixOf(t, other.Public()) }},
			{spki: func(*forger) []byte { return pkixOf(t, other.Public()) }},
		},
		"proof-format": {{proof: func(f *forger, p *Proof) { p.Node = p.Trail }}}, // certifies what is not there
	} {
		for i, l := range list {
			if _, err := newForger(t).run(t, attested(t, l)); !refusedBy(err, rule) {
				t.Errorf("%s %d: %v", rule, i, err)
			}
		}
	}
	// Nobody else's evidence becomes that of a key in memory: the key is in what was signed.
	f := newForger(t)
	swap := attested(t, lie{})
	swap.finish = func(s *Session, _, _, _ []byte) {
		h := s.state.hello
		h.NodeKey = pkixOf(t, other.Public())
		s.state.helloBytes, s.state.hello, s.state.nodeKey = marshal(t, h), h, &other.PublicKey
	}
	swap.spki = func(*forger) []byte { return pkixOf(t, other.Public()) }
	if _, err := f.run(t, swap); !refusedBy(err, "quote-nonce") {
		t.Errorf("swapped key: %v", err)
	}
	// Without a certification, a key that should be in the TPM is refused.
	if _, err := f.run(t, lie{proof: func(_ *forger, p *Proof) { p.Node = Signed{} }}); !refusedBy(err, "proof-format") {
		t.Errorf("resident key without its certification: %v", err)
	}
	if !slices.Contains(Rules(), "node-key-form") {
		t.Error("node-key-form is no rule")
	}
	if _, err := (&Keys{}).InMemory(&newKey(t, elliptic.P384()).PublicKey); err == nil {
		t.Error("a key on P-384 is taken")
	}
}
