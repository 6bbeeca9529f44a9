package dev

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// nodeFile is what node.yaml says beyond the node itself.
type nodeFile struct {
	Node
	Device, BootLog            string
	Interval                   time.Duration
	KeyInMemory                bool
	GlobalKey                  string
	Records                    []string
	Enrol                      []netip.AddrPort
	Branches                   []spiffeid.ID // the region's other issuers
	Join, Gateways             []netip.AddrPort
	GlobalPolicy, RegionPolicy string
	IssuerKeys, AuthorityKeys  string
	MakerRoot, Entries         string
	Names                      []Workload // services of the region
	Serving, Calling           []Workload // beside this node
}

// config is node.yaml, in the order of the manual.
func (f nodeFile) config() string {
	var y page
	y.line("node: %s", f.ID)
	y.line("state: %q", f.StateDir())
	y.line("dev: true\n")
	y.line("tpm:\n  mode: required\n  device: %q\n  boot_log: %q", f.Device, f.BootLog)
	if f.KeyInMemory {
		y.line("  node_key: attested\n  seal_cache: true")
	}
	y.line("\nattest:\n  interval: %s", f.Interval)
	y.line("\ntrail:\n  custody:\n    every: %s", f.Interval)
	y.line("\ntrust:\n  global_keys: [%q]", f.GlobalKey)
	list(&y, "  records", "%q", f.Records)
	y.line("\nenrol:\n  issuers: [%s]", flow(f.Enrol))
	y.line("\nmesh:\n  listen: %s", f.Mesh)
	list(&y, "  join", "%s", f.Join)
	list(&y, "  gateways", "%s", f.Gateways)
	y.line("\npolicy:\n  global: %q\n  region: %q", f.GlobalPolicy, f.RegionPolicy)
	y.line("  ext_authz: {listen: %q}\n  authzen: {listen: %q}", "unix:"+f.beside("ext-authz.sock"), "unix:"+f.beside("authzen.sock"))
	if f.issues() {
		y.line("\nissuer:\n  listen: %s\n  admin_socket: %q\n  keys: %q", f.Issuer, f.AdminSocket(), f.IssuerKeys)
		y.line("  ek_roots: [%q]\n  entries: [%q]", f.MakerRoot, f.Entries)
	}
	if f.First {
		y.line("\nauthority:\n  keys: %q", f.AuthorityKeys)
		list(&y, "  issuers", "%s", f.Branches)
		each(&y, "  services", f.Names, func(w Workload) {
			y.line("    - name: %s\n      workloads: [%q]", w.Serves, w.ID)
		})
	}
	each(&y, "\nservices", f.Serving, func(w Workload) {
		y.line("  - name: %s\n    workload: %s\n    target: %s", w.Serves, w.ID, w.Address)
	})
	each(&y, "\nlisteners", f.Calling, func(w Workload) {
		y.line("  - listen: %s\n    service: %s", w.Address, w.Calls)
	})
	y.line("\nworkload_api:\n  socket: %q\ncontrol:\n  socket: %q", f.WorkloadSocket, f.ControlSocket)
	return y.String()
}

// page is a YAML file that is being written. %q makes any path a double-quoted
// scalar: of what it writes for valid UTF-8, YAML reads everything.
type page struct{ strings.Builder }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// list is a key with one line for each value, and nothing without values.
func list[T any](p *page, key, verb string, values []T) {
	each(p, key, values, func(v T) { p.line("    - "+verb, v) })
}

func each[T any](p *page, key string, values []T, write func(T)) {
	if len(values) == 0 {
		return
	}
	p.line("%s:", key)
	for _, v := range values {
		write(v)
	}
}

// flow is a list on one line.
func flow(values []netip.AddrPort) string {
	var out []string
	for _, v := range values {
		out = append(out, strconv.Quote(v.String()))
	}
	return strings.Join(out, ", ")
}

// writeNode writes a node's configuration.
func (f *Fleet) writeNode(n Node, soft *maker.SoftTPM) error {
	file := nodeFile{
		Node: n, Device: soft.Path(), BootLog: soft.BootLog(), Interval: quoteEvery,
		KeyInMemory:  n.Name == f.Nodes[len(f.Nodes)-1].Name, // so that both kinds of key, and a sealed cache, are always in use
		GlobalKey:    f.globalKey(),
		GlobalPolicy: f.globalPolicy(), RegionPolicy: f.regionPolicy(n.Region),
		IssuerKeys: f.issuerKeys(n), AuthorityKeys: f.authorityKeys(n.Region),
		MakerRoot: filepath.Join(f.Dir, "maker", "root.pem"), Entries: f.entriesFile(n.Region),
	}
	for _, by := range f.issuers(n.Region) {
		if by.First || !n.issues() { // an issuer is judged by the authority's
			file.Enrol = append(file.Enrol, by.Issuer)
		}
		if by.Second {
			file.Branches = append(file.Branches, by.ID)
		}
	}
	for _, r := range f.Regions {
		file.Records = append(file.Records, f.trustRecord(r.Label))
	}
	for _, other := range f.Nodes {
		switch {
		case other.Region == n.Region && other.Name != n.Name:
			file.Join = append(file.Join, other.Mesh)
		case other.Region != n.Region && other.First && n.First:
			file.Gateways = append(file.Gateways, other.Mesh)
		}
	}
	for _, w := range f.Workloads {
		if w.Serves != "" && w.ID.TrustDomain() == n.ID.TrustDomain() {
			file.Names = append(file.Names, w)
		}
		switch {
		case w.Node != n.Name:
		case w.Serves != "":
			file.Serving = append(file.Serving, w)
		default:
			file.Calling = append(file.Calling, w)
		}
	}
	return write(n.Config, file.config())
}

// writeEntries says which machine is which node of a region, and which program is
// which workload.
func (f *Fleet) writeEntries(r Region, machines []machineOf) error {
	var y page
	y.line("entries:")
	for i, n := range f.Nodes {
		if n.Region != r.Label {
			continue
		}
		class := "node"
		if n.First {
			class = "gateway"
		}
		y.line("  - id: %s\n    ek: %s\n    class: %s", n.ID, machines[i].ek, class)
	}
	for _, w := range f.Workloads {
		n, err := f.Node(w.Node)
		if err != nil {
			return err
		}
		if n.Region == r.Label {
			y.line("  - id: %s\n    node: %s\n    selectors: [%q]", w.ID, n.ID, "unix:path:"+f.program(w))
		}
	}
	return write(f.entriesFile(r.Label), y.String())
}

func write(path, content string) error {
	return writeFile(path, []byte("# Written by bailiwick dev at every start: changes here are lost.\n"+content), 0o600)
}
