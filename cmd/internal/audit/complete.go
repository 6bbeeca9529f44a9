package audit

import (
	"bytes"
	"encoding/hex"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// Facts reads the leaves of a case.
func Facts(c casefile.Case) (out []fact.Fact, err error) {
	for n, o := range c.Manifest.Trails {
		for _, l := range c.Leaves[n] {
			leaf, err := trail.ParseLeaf(l.Raw)
			if err != nil {
				return nil, err
			}
			out = append(out, fact.Read(o.Origin, trail.Indexed{Index: l.Index, Leaf: leaf}))
		}
	}
	return out, nil
}

// AddPolicies adds the signed policy files that a leaf of the case names, where there is a
// denial to ask again: a proof needs no policy.
func AddPolicies(c *casefile.Case, files [][]byte) error {
	all, err := Facts(*c)
	if err != nil {
		return err
	}
	if len(c.Decisions) == 0 {
		return nil
	}
	for _, b := range files {
		signed, _, err := bundle.Split(b)
		if err != nil {
			return err
		}
		env, err := statement.Parse(signed)
		if err != nil {
			return err
		}
		name := statement.Digest(env.Payload())
		if slices.ContainsFunc(all, func(f fact.Fact) bool {
			return f.Kind == trail.PolicyActivate.Name() && f.Field("record") == hex.EncodeToString(name[:])
		}) {
			c.Policies = once(c.Policies, b)
		}
	}
	return nil
}

// AddTrust adds the signed trust records of the regions whose trails are in the case.
func AddTrust(c *casefile.Case, records [][]byte) error {
	for _, b := range records {
		r, _, err := trust.Read(b)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.Manifest.Trails, func(o casefile.Origin) bool {
			td, _, _ := bytes.Cut([]byte(o.Origin), []byte("/"))
			return string(td) == r.TrustDomain.Name()
		}) {
			err = addRecord(c, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addRecord adds a trust record; of one version the one with the most signatures stays.
func addRecord(c *casefile.Case, b []byte) error {
	r, signed, err := trust.Read(b)
	if err != nil {
		return err
	}
	for i, have := range c.Trust {
		h, by, err := trust.Read(have)
		if err != nil {
			return err
		}
		if h.TrustDomain == r.TrustDomain && h.Version == r.Version {
			if signed > by {
				c.Trust[i] = b
			}
			return nil
		}
	}
	c.Trust = append(c.Trust, b)
	return nil
}

// Proofs are the digests of the findings that leaves of the case tell of, in hex.
func Proofs(c casefile.Case) (out []string, err error) {
	all, err := Facts(c)
	for _, f := range all {
		if d := f.Field("digest"); f.Kind == trail.PeerFinding.Name() && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out, err
}

// AddProof adds the evidence of a finding.
func AddProof(c *casefile.Case, proof []byte) { c.Evidence = once(c.Evidence, proof) }

func once(list [][]byte, b []byte) [][]byte {
	if slices.ContainsFunc(list, func(have []byte) bool { return bytes.Equal(have, b) }) {
		return list
	}
	return append(list, b)
}
