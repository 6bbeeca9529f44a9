// Package opabundle writes the policy of a level as an OPA bundle and reads one: a tar.gz with
// an ES256 .signatures.json, as `opa build`, `opa eval -b`, `opa test -b` and `opa run -b` of stock
// OPA have it. It is for exchange with tools that know OPA's bundles only. Nodes do not take
// them: an OPA signature has no expiry, no version and no scope (see policy/bundle).
//
// # What OPA cannot know
//
// Level, scope and version, and the schemas of state, are in the manifest's metadata, which stock
// OPA keeps and does not read:
//
//	metadata.bailiwick = {level, scope, version, schemas: {"schemas/order.json": source}}
//
// A bundle without it is imported all the same, without schemas. The combination of levels,
// delegations, validity and the sandbox are not in the bundle: stock OPA answers what the rules
// of this one level say.
//
// # What always holds
//
// Read verifies the signature of every file before it returns anything; a bundle that is not
// signed, not by this key, with another algorithm than ES256, that is a delta, or that holds
// wasm or plans, is refused. It is bounded in size, packed and unpacked.
package opabundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// KeyID is the key ID in signatures, for `opa ... --verification-key-id`.
const KeyID = "bailiwick"

const (
	algorithm   = "ES256"
	maxPacked   = bundle.MaxContent
	maxUnpacked = 2 * bundle.MaxContent // the manifest repeats the schemas, and a tar has headers
	maxFiles    = 512
)

// ErrBundle means that bytes are no OPA bundle that can be imported: not signed by this key, or
// with what a policy does not have. The message says which. Have it signed with opa build
// --signing-alg ES256, or export it again.
var ErrBundle = errors.New("not an OPA bundle that can be imported")

// About is what bailiwick knows of a policy and OPA does not.
type About struct {
	Level   string            `json:"level"`
	Scope   string            `json:"scope,omitempty"` // empty: whoever publishes it says for which
	Version uint64            `json:"version"`
	Schemas map[string]string `json:"schemas,omitempty"`
}

// Write returns a policy as an OPA bundle, signed with a key.
func Write(c bundle.Content, about About, key *ecdsa.PrivateKey) ([]byte, error) {
	about.Schemas = c.Schemas
	metadata, err := plain(map[string]any{"bailiwick": about})
	if err != nil {
		return nil, err
	}
	data, err := plain(c.Data)
	if err != nil {
		return nil, err
	}
	roots := []string{""}
	b := opa.Bundle{Data: data, Manifest: opa.Manifest{
		Revision: fmt.Sprintf("%s version %d", strings.TrimSpace(about.Level+" "+about.Scope), about.Version), Roots: &roots, Metadata: metadata,
	}}
	b.SetRegoVersion(ast.RegoV1)
	for _, path := range slices.Sorted(maps.Keys(c.Modules)) {
		m, err := ast.ParseModuleWithOpts(path, c.Modules[path], ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", bundle.ErrContent, path, err)
		}
		b.Modules = append(b.Modules, opa.ModuleFile{URL: "/" + path, Path: "/" + path, Raw: []byte(c.Modules[path]), Parsed: m})
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err := b.GenerateSignature(opa.NewSigningConfig(secret, algorithm, ""), KeyID, true); err != nil {
		return nil, errors.New("sign the OPA bundle") // OPA's error may hold the key
	}
	var out bytes.Buffer
	if err := opa.NewWriter(&out).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Read verifies an OPA bundle with a public key and returns the policy in it. Errors wrap ErrBundle,
// or those of bundle.Content.Encode.
func Read(b []byte, key *ecdsa.PublicKey) (c bundle.Content, about About, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = bundle.Content{}, fmt.Errorf("%w: %v", ErrBundle, p)
		}
	}()
	if err := bounded(b); err != nil {
		return c, about, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return c, about, err
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	keys := map[string]*opa.KeyConfig{KeyID: {Key: public, Algorithm: algorithm}}
	in, err := opa.NewReader(bytes.NewReader(b)).WithBundleVerificationConfig(opa.NewVerificationConfig(keys, KeyID, "", nil)).
		WithSizeLimitBytes(bundle.MaxContent).WithRegoVersion(ast.RegoV1).Read()
	switch {
	case err != nil:
		return c, about, fmt.Errorf("%w: %w", ErrBundle, err)
	case len(in.Signatures.Signatures) == 0:
		return c, about, fmt.Errorf("%w: it is not signed", ErrBundle)
	case len(in.Patch.Data) > 0, len(in.WasmModules) > 0, len(in.PlanModules) > 0, len(in.Wasm) > 0:
		return c, about, fmt.Errorf("%w: it is a delta, or holds wasm or plans: a policy is Rego and data", ErrBundle)
	}
	c = bundle.Content{Modules: map[string]string{}, Data: in.Data}
	for _, m := range in.Modules {
		c.Modules[strings.TrimPrefix(m.Path, "/")] = string(m.Raw)
	}
	if known, ok := in.Manifest.Metadata["bailiwick"]; ok {
		src, err := json.Marshal(known)
		if err == nil {
			err = json.Unmarshal(src, &about)
		}
		if err != nil {
			return c, about, fmt.Errorf("%w: metadata.bailiwick: %w", ErrBundle, err)
		}
		c.Schemas = about.Schemas
	}
	_, err = c.Encode() // whatever no policy may hold is told here
	return c, about, err
}

// bounded refuses what would unpack to too much before OPA reads it.
func bounded(b []byte) error {
	if len(b) > maxPacked {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrBundle, len(b), maxPacked)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBundle, err)
	}
	counted := &io.LimitedReader{R: z, N: maxUnpacked + 1}
	t := tar.NewReader(counted)
	for files := 0; ; files++ {
		_, err := t.Next()
		switch {
		case counted.N <= 0 || files > maxFiles:
			return fmt.Errorf("%w: it unpacks to more than %d bytes or %d files", ErrBundle, maxUnpacked, maxFiles)
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrBundle, err)
		}
	}
}

// plain is a value as JSON has it, which is what OPA hashes.
func plain(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return out, d.Decode(&out)
}
