package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// policyPublic is the public half of a policy key that trust init --local makes.
const policyPublic = "policy.pem"

// initLocal makes the policy key of a zone, or of one node.
func initLocal(o *options, dir string) error {
	key, err := provision.KeyPair(dir, provision.PolicyKey, policyPublic)
	if err != nil {
		return err
	}
	public := filepath.Join(dir, policyPublic)
	fingerprint := provision.KeyFingerprint(&key.PublicKey)
	return o.tell(map[string]any{"key": filepath.Join(dir, provision.PolicyKey), "public_key": public, "sha256": fingerprint},
		fmt.Sprintf("policy key %s in %s", fingerprint, filepath.Join(dir, provision.PolicyKey)),
		fmt.Sprintf("have the region delegate to %s: bailiwick trust sign %s --scope TRUST_DOMAIN/zone/NAME", public, public))
}

// isPublicKey reports whether a file is a public key in PEM.
func isPublicKey(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && bytes.Contains(b, []byte("-----BEGIN PUBLIC KEY-----"))
}

// delegate lets a public key sign the policy of a scope, in the name of the level above.
func (s signing) delegate(path string) error {
	if s.scope == "" {
		return &usageError{errors.New("--scope is required: the trust domain, or a zone or node in it, whose policy the key is to sign")}
	}
	signer, err := keyfile.OpenExisting(s.key)
	if err != nil {
		return err
	}
	public, err := config.PublicKeys("trust sign", path)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(public[0])
	if err != nil {
		return err
	}
	d := bundle.Delegation{Level: policy.Regional, Scope: s.scope, Key: der, Regions: s.regions, Services: s.services, Floor: s.floor}
	for _, kind := range s.kinds {
		d.Kinds = append(d.Kinds, policy.Kind(kind))
	}
	v := provision.ValidFor(s.valid)
	d.NotBefore, d.NotAfter = v.From.Unix(), v.To.Unix()
	if strings.Contains(s.scope, "/") {
		d.Level = policy.Local
		if err := within(s.delegation, signer, d); err != nil {
			return err
		}
	}
	signed, err := bundle.Certify(signer, d)
	if err != nil {
		return err
	}
	out := s.out
	if out == "" {
		out = strings.TrimSuffix(path, filepath.Ext(path)) + ".delegation"
	}
	if err := provision.WriteFile(out, signed, fileMode); err != nil {
		return err
	}
	may := "only deny"
	if len(d.Kinds) > 0 {
		may = fmt.Sprintf("allow %v in regions %v", d.Kinds, d.Regions)
	}
	return s.tell(map[string]any{"file": out, "level": d.Level, "scope": d.Scope, "key": provision.Fingerprint(der), "kinds": d.Kinds, "regions": d.Regions,
		"services": d.Services, "floor": d.Floor, "not_after": v.To},
		fmt.Sprintf("%s: key %s may sign %s policy of %s until %s; it may %s", out, provision.Fingerprint(der), d.Level, d.Scope, v.To.UTC().Format("2006-01-02"), may))
}

// within refuses a delegation that nodes would: the region's own has to be for the key that
// signs, and to reach as far.
func within(parent string, signer *ecdsa.PrivateKey, d bundle.Delegation) error {
	if parent == "" {
		return &usageError{errors.New("--delegation FILE is required: what lets the region's key sign")}
	}
	b, err := os.ReadFile(parent)
	if err != nil {
		return err
	}
	var of provision.Policy
	if err := of.Under(&signer.PublicKey, [][]byte{b}); err != nil {
		return err
	}
	above, err := bundle.ReadDelegation(b)
	if err != nil {
		return fmt.Errorf("%s: %w", parent, err)
	}
	return d.Within(&above)
}
