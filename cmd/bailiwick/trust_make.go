package main

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func trustInitCommand(o *options) *cobra.Command {
	var global, local, approver bool
	var region, domain, anchors string
	var valid time.Duration
	c := &cobra.Command{
		Use:   "init {--global | --region LABEL --trust-domain NAME | --local | --approver} DIR",
		Short: "Make the keys of a global key holder, of a region, of a site, or of an approver",
		Long: `With --global, init makes a key of the global authority: global.key.pem, which
belongs on a machine without a network, and global.pem, which every node gets. Each
of several key holders makes one.

With --region it makes a region's keys: issuer/ and authority/ for the nodes with
these roles, policy.key.pem for whoever writes the region's policy, and
LABEL.draft, the region's first trust record, for the global keys to sign. With
--anchors no SVID root is made: the record names the roots in that file, those of
the SPIRE server that issuer.upstream is to be.

Both copy the shipped policy of their level into policy/, to be changed and signed.

With --local it makes the policy key of a zone or of one node: policy.key.pem, and
policy.pem for the region to delegate to (trust sign).

With --approver it makes the key of somebody whose approval releases from quarantine
need: approver.key.pem, which stays with them, and approver.pem (trust approvers).

What is there already is kept, so init may be run again.`,
		Example: `  bailiwick trust init --global global
  bailiwick trust init --region east --trust-domain east.example.org east`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := args[0]
			switch {
			case (local != approver) && !global && region == "" && domain == "" && anchors == "":
				if approver {
					return initApprover(o, dir)
				}
				return initLocal(o, dir)
			case local, approver, global == (region != "") || (region == "") != (domain == "") || global && anchors != "":
				return &usageError{errors.New("give --global, or --region LABEL with --trust-domain NAME, or --local, or --approver")}
			case global:
				return initGlobal(o, dir)
			}
			if !trust.IsLabel(region) {
				return &usageError{fmt.Errorf("--region %s: want a label of a-z, 0-9 and inner hyphens, up to 32", region)}
			}
			td, err := spiffeid.TrustDomainFromString(domain)
			if err != nil {
				return &usageError{fmt.Errorf("--trust-domain %s: %w", domain, err)}
			}
			var roots []*x509.Certificate
			if anchors != "" {
				if roots, err = config.Certificates(config.Path(anchors)); err != nil {
					return err
				}
			}
			return initRegion(o, dir, region, td, valid, roots)
		},
	}
	c.Flags().BoolVar(&global, "global", false, "make a global key")
	c.Flags().BoolVar(&local, "local", false, "make the policy key of a zone or a node")
	c.Flags().BoolVar(&approver, "approver", false, "make the key of an approver of releases")
	c.Flags().StringVar(&region, "region", "", "label of the region to make keys for: a-z, 0-9 and inner hyphens")
	c.Flags().StringVar(&domain, "trust-domain", "", "the region's trust domain, such as east.example.org; for ever")
	c.Flags().StringVar(&anchors, "anchors", "", "PEM file with the roots of an upstream SPIRE server, in place of an own one")
	c.Flags().DurationVar(&valid, "valid", aYear, "how long the region's first trust record is to be valid")
	return c
}

func initGlobal(o *options, dir string) error {
	key, err := provision.Global(dir)
	if err != nil {
		return err
	}
	if err := provision.CopyPolicy(policy.Global, filepath.Join(dir, provision.PolicyDir)); err != nil {
		return err
	}
	fingerprint := provision.KeyFingerprint(&key.PublicKey)
	return o.tell(map[string]any{"key": filepath.Join(dir, provision.GlobalKey), "public_key": filepath.Join(dir, provision.GlobalPublic), "sha256": fingerprint},
		fmt.Sprintf("global key %s in %s: keep it offline, with a copy elsewhere", fingerprint, filepath.Join(dir, provision.GlobalKey)),
		fmt.Sprintf("every node gets %s (trust.global_keys)", filepath.Join(dir, provision.GlobalPublic)))
}

func initRegion(o *options, dir, region string, td spiffeid.TrustDomain, valid time.Duration, anchors []*x509.Certificate) error {
	draft, err := provision.Region(dir, region, td, provision.ValidFor(valid), anchors...)
	if err != nil {
		return err
	}
	if err := provision.CopyPolicy(policy.Regional, filepath.Join(dir, provision.PolicyDir)); err != nil {
		return err
	}
	return trustListFile(o, draft, nil, 1)
}

func trustSignCommand(o *options) *cobra.Command {
	s := signing{options: o}
	c := &cobra.Command{
		Use:   "sign {FILE | DIR | PUBLIC_KEY --scope SCOPE} --key KEY",
		Short: "Sign a trust record, a policy, or the delegation of a policy key",
		Long: `Sign adds a signature to a draft or to a record that others have signed, and writes
REGION.trust and REGION.delegation beside it. Read what it prints before you hand it
on, and compare the fingerprints with what the region's keeper reads to you: whoever
is named there is the region from now on. The delegation lets the region's policy key
sign the region's policy.

Given a folder it signs the policy in it, after compiling it, and writes
global.policy or region.policy beside the folder. With --delegation the policy is the
region's. Versions grow by themselves while the file before stays in its place, at --out or
beside the folder.

Given a public key it writes a delegation: the key may sign the policy of --scope. Of a
trust domain that is signed with a global key; of a zone or node in one with the region's
policy key, whose own is --delegation. Without --kinds the level can only deny. --floor
lets its versions begin there, for a key that has used up the numbers before.`,
		Example: `  bailiwick trust sign east/east.draft --key global/global.key.pem
  bailiwick trust sign east/east.trust --key other/global.key.pem
  bailiwick trust sign global/policy --key global/global.key.pem
  bailiwick trust sign east/policy --key east/policy.key.pem --delegation east/east.delegation
  bailiwick trust sign site/policy.pem --key east/policy.key.pem --delegation east/east.delegation \
    --scope east.example.org/zone/site-17`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if s.key == "" {
				return &usageError{errors.New("--key FILE is required: the private key to sign with")}
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if info.IsDir() {
				return s.policy(args[0])
			}
			if isPublicKey(args[0]) {
				return s.delegate(args[0])
			}
			return s.record(args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&s.key, "key", "", "the private key to sign with (required)")
	f.StringVar(&s.out, "out", "", "where to write the signed file")
	f.StringVar(&s.delegation, "delegation", "", "what lets the key sign, of a policy or of a local delegation")
	f.StringVar(&s.author, "author", "", "of a policy: SPIFFE ID of who wrote it (default: spiffe://SCOPE/operator)")
	f.StringVar(&s.change, "change", "", "of a policy: why it changed, or a ticket")
	f.Uint64Var(&s.version, "version", 0, "of a policy: its version (default: the one before, and 1)")
	f.DurationVar(&s.valid, "valid", aYear, "how long a policy, or a delegation, is to be valid")
	f.StringVar(&s.scope, "scope", "", "of a delegation: TRUST_DOMAIN, TRUST_DOMAIN/zone/NAME or TRUST_DOMAIN/node/NAME")
	f.StringSliceVar(&s.kinds, "kinds", nil, "of a delegation: what its policy may allow, such as connect (default: nothing)")
	f.StringSliceVar(&s.regions, "regions", nil, "of a delegation: labels of the regions it may allow that in")
	f.StringSliceVar(&s.services, "services", nil, "of a delegation: service names it may allow, * for any end (default: all)")
	f.Uint64Var(&s.floor, "floor", 0, "of a delegation: the least version the key may sign")
	return c
}

// signing is one run of trust sign.
type signing struct {
	*options
	key, out, delegation, author, change string
	scope                                string
	kinds, regions, services             []string
	version, floor                       uint64
	valid                                time.Duration
}

// record adds a signature to a draft or a record. The first one brings the
// delegation of the region's policy key with it.
func (s signing) record(path string) error {
	records, err := readRecords(path)
	if err != nil {
		return err
	}
	if len(records) != 1 {
		return fmt.Errorf("%w: %s holds %d records: sign each in a file of its own", trust.ErrMalformed, path, len(records))
	}
	r, signatures, err := trust.Read(records[0])
	if err != nil {
		return err
	}
	key, err := keyfile.OpenExisting(s.key)
	if err != nil {
		return err
	}
	signed, err := trust.Add(records[0], key)
	if err != nil {
		return err
	}
	out := s.out
	if out == "" {
		out = filepath.Join(filepath.Dir(path), r.Region+".trust")
	}
	if err := provision.WriteFile(out, signed, fileMode); err != nil {
		return err
	}
	wrote := []string{out}
	if signatures == 0 {
		delegation, err := provision.Delegate(key, r, builtin.Regional(r.Region).Delegation, provision.ValidFor(s.valid))
		if err != nil {
			return err
		}
		wrote = append(wrote, strings.TrimSuffix(out, filepath.Ext(out))+".delegation")
		if err := provision.WriteFile(wrote[1], delegation, fileMode); err != nil {
			return err
		}
	}
	_, n, err := trust.Read(signed)
	if err != nil {
		return err
	}
	items := []*controlv1.TrustRecord{unverified(r, n)}
	return writeItems(s.options, nil, items, func(w io.Writer) {
		trustTable(w, items)
		fmt.Fprintf(w, "signed with key %s: %s\n", provision.KeyFingerprint(&key.PublicKey), strings.Join(wrote, ", "))
	})
}

// policy compiles and signs the policy in a folder.
func (s signing) policy(dir string) error {
	key, err := keyfile.OpenExisting(s.key)
	if err != nil {
		return err
	}
	p := provision.Policy{Level: policy.Global, Scope: bundle.ScopeMesh, Author: s.author, Change: s.change, Version: s.version}
	out := "global.policy"
	if s.delegation != "" {
		b, err := os.ReadFile(s.delegation)
		if err != nil {
			return err
		}
		d, err := bundle.ReadDelegation(b)
		if err != nil {
			return fmt.Errorf("%s: %w", s.delegation, err)
		}
		if public, err := x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil || !bytes.Equal(public, d.Key) {
			return fmt.Errorf("%w: %s is for another key than %s", bundle.ErrDelegation, s.delegation, s.key)
		}
		p.Level, p.Scope, p.Delegations, out = d.Level, d.Scope, [][]byte{b}, "region.policy"
	}
	beside := filepath.Join(filepath.Dir(filepath.Clean(dir)), out)
	if out = beside; s.out != "" {
		out = s.out
	}
	before, err := following(out, beside)
	switch {
	case err != nil:
		return err
	case before.Scope != "" && (before.Level != p.Level || before.Scope != p.Scope):
		return &usageError{fmt.Errorf("%s policy of %s is in the way of %s policy of %s: name another file with --out", before.Level, before.Scope, p.Level, p.Scope)}
	}
	p.Version, p.Author = cmp.Or(p.Version, before.Version), cmp.Or(p.Author, before.Author, "spiffe://"+p.Scope+"/operator")
	p.Parent, p.MaxStaleness, p.StaleMode = before.Parent, before.MaxStaleness, before.StaleMode
	p.Content, err = compiled(dir, p.Level)
	if s.delegation == "" && errors.Is(err, policy.ErrPackage) {
		if _, err := compiled(dir, policy.Regional); !errors.Is(err, policy.ErrPackage) {
			return &usageError{fmt.Errorf("%s holds regional policy: --delegation FILE is required, the file that trust sign wrote beside the region's record", dir)}
		}
	}
	if err != nil {
		return err
	}
	signed, err := p.Sign(key, provision.ValidFor(s.valid))
	if err != nil {
		return err
	}
	if err := provision.WriteFile(out, signed, fileMode); err != nil {
		return err
	}
	fingerprint := provision.KeyFingerprint(&key.PublicKey)
	text := []string{fmt.Sprintf("%s: %s policy of %s, version %d, signed with key %s", out, p.Level, p.Scope, p.Version, fingerprint)}
	if s.version == 0 && p.Version == 1 && out != beside {
		text = append(text, fmt.Sprintf("neither this file nor %s was there to count on from: if nodes have a version already, sign again with --version", beside))
	}
	return s.tell(map[string]any{"file": out, "level": p.Level, "scope": p.Scope, "version": p.Version, "key": fingerprint}, text...)
}

// compiled packs a folder of policy that a node would activate, and all of which has an effect.
func compiled(dir, level string) ([]byte, error) {
	content, err := bundle.Pack(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	c, err := bundle.Unpack(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	l := workbench.Level{Level: policy.Level{Name: level, Modules: c.Modules, Data: c.Data, Schemas: c.Schemas}, Dir: dir}
	tree := &workbench.Tree{Dir: dir, Levels: []workbench.Level{l}}
	if err := policy.Check(l.Level); err != nil {
		return nil, mistaken(tree, err)
	}
	return content, mistaken(tree, workbench.Review(l))
}

// following is what comes after the newest of these policy files, as far as they are there: version 1
// after none.
func following(paths ...string) (next provision.Policy, err error) {
	next.Version = 1
	for _, path := range paths {
		file, err := bundle.Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return next, err
		}
		p, err := provision.Following(file.Signed)
		if err != nil {
			return next, fmt.Errorf("%s: %w", path, err)
		}
		if p.Version > next.Version {
			next = p
		}
	}
	return next, nil
}
