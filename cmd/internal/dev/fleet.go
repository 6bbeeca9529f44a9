// Package dev runs a whole fleet on one machine: two regions, five nodes, each
// its own process with its own software TPM, and a few workloads; and the
// hostile acts that the fleet must withstand.
//
// Everything lives below .dev in the project folder:
//
//	fleet.json        the layout: names, addresses, sockets (see Fleet)
//	global/           the global authority's key and policy
//	maker/            the CA of the dev TPM maker
//	regions/<label>/  roots, authority key, policy, trust record, entries
//	nodes/<name>/     node.yaml, state/, tpm/, log
//	bin/              one link to this program for each workload identity
//	run/              sockets, process IDs, workload counters, marks of poisoned nodes
//
// Provisioning happens once; a later start resumes. Nodes run the product, as
// `bailiwick run`, and know nothing of this package: what is hostile here
// (Poison) is a process of its own that takes a node's state and TPM. The keys
// lie about unprotected and swtpm keeps no secrets from its owner, so dev trust
// is trust in this machine's user and nothing else.
package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const folder = ".dev"

// maxRunDir leaves room for the longest socket name below the bound on unix
// socket paths.
const maxRunDir = 80

var (
	// ErrNoFleet means there is no dev fleet in this folder or above it. Make one
	// with: bailiwick dev
	ErrNoFleet = errors.New("no dev fleet here: start one with bailiwick dev")

	// ErrMoved means the folder was moved or copied after its fleet was made, and
	// the paths in it lead elsewhere. Move it back, or remove .dev by hand.
	ErrMoved = errors.New("the dev fleet was moved here")

	// ErrDamaged means a file below .dev is not what bailiwick dev wrote there. Run:
	// bailiwick dev clean, or where that fails too, remove .dev by hand.
	ErrDamaged = errors.New("the dev fleet is damaged")

	// ErrRunning means the fleet runs already. Use it, or: bailiwick dev stop
	ErrRunning = errors.New("the dev fleet is running already")

	// ErrNotRunning means the fleet's processes are not there. Start them with:
	// bailiwick dev --detach
	ErrNotRunning = errors.New("the dev fleet is not running")

	// ErrUnknownNode means the name is none of the fleet's.
	ErrUnknownNode = errors.New("no such node in the dev fleet")

	// ErrUnknownRegion means the label is none of the fleet's.
	ErrUnknownRegion = errors.New("no such region in the dev fleet")
)

// Fleet is the layout of one dev fleet, as kept in fleet.json.
type Fleet struct {
	Dir       string     `json:"dir"` // absolute path of .dev
	RunDir    string     `json:"run_dir"`
	Regions   []Region   `json:"regions"`
	Nodes     []Node     `json:"nodes"`
	Workloads []Workload `json:"workloads"`
}

// Region is one trust domain of the fleet.
type Region struct {
	Label       string `json:"label"`
	TrustDomain string `json:"trust_domain"`
}

// Node is one sidecar.
type Node struct {
	Name           string         `json:"name"`
	Region         string         `json:"region"`
	ID             spiffeid.ID    `json:"id"`
	First          bool           `json:"first"`  // holds issuer, authority and gateway
	Second         bool           `json:"second"` // holds another issuer of the region
	Dir            string         `json:"dir"`
	Config         string         `json:"config"`
	ControlSocket  string         `json:"control_socket"`
	WorkloadSocket string         `json:"workload_socket"`
	Mesh           netip.AddrPort `json:"mesh"`
	Issuer         netip.AddrPort `json:"issuer"`
}

// Workload is one sample program beside a node.
type Workload struct {
	Name    string         `json:"name"` // unique: "shop-east-n2"
	Program string         `json:"program"`
	Node    string         `json:"node"`
	ID      spiffeid.ID    `json:"id"`
	Serves  string         `json:"serves,omitempty"` // service name
	Calls   string         `json:"calls,omitempty"`  // full service name
	Address netip.AddrPort `json:"address"`          // its own target, or the sidecar's listener
	Denied  bool           `json:"denied,omitempty"` // what the policy is expected to say
}

// StateDir is where the node keeps its state.
func (n Node) StateDir() string { return filepath.Join(n.Dir, "state") }

func (n Node) issues() bool { return n.First || n.Second }

// AdminSocket is where the node's issuer, if it has one, answers
// the spire-server command.
func (n Node) AdminSocket() string {
	return n.beside("issuer.sock")
}

// beside is another socket of the node.
func (n Node) beside(name string) string { return filepath.Join(filepath.Dir(n.ControlSocket), name) }

// TPMDir is where the node's software TPM keeps its own.
func (n Node) TPMDir() string { return filepath.Join(n.Dir, "tpm") }

// Names lists the nodes.
func (f *Fleet) Names() (out []string) {
	for _, n := range f.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// Node returns the node of that name.
func (f *Fleet) Node(name string) (Node, error) {
	for _, n := range f.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("%s: %w: it has %v", name, ErrUnknownNode, f.Names())
}

// first returns the node with the roles of a region.
func (f *Fleet) first(region string) Node {
	for _, n := range f.Nodes {
		if n.Region == region && n.First {
			return n
		}
	}
	return Node{}
}

// issuers returns the nodes of a region that sign SVIDs, the one with the authority
// first.
func (f *Fleet) issuers(region string) (out []Node) {
	for _, other := range f.Nodes {
		if other.Region == region && other.issues() {
			out = append(out, other)
		}
	}
	return out
}

// Find returns the fleet of dir or the nearest folder above it. Errors wrap
// ErrNoFleet or ErrMoved.
func Find(dir string) (*Fleet, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for {
		f, err := load(dir)
		if !errors.Is(err, ErrNoFleet) {
			return f, err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil, err
		}
		dir = parent
	}
}

// load returns the fleet of one project folder.
func load(projectDir string) (*Fleet, error) {
	dir := filepath.Join(projectDir, folder)
	b, err := os.ReadFile(filepath.Join(dir, "fleet.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoFleet
	}
	if err != nil {
		return nil, err
	}
	var f Fleet
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%s/fleet.json: %w: %w", dir, ErrDamaged, err)
	}
	here, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if made, err := os.Stat(f.Dir); err != nil || !os.SameFile(here, made) {
		return nil, fmt.Errorf("%s: %w from %s", dir, ErrMoved, f.Dir)
	}
	return &f, nil
}

// open returns the fleet of exactly this project folder, laying it out first if
// there is none yet.
func open(projectDir string) (*Fleet, error) {
	projectDir, err := filepath.Abs(projectDir)
	if err != nil {
		return nil, err
	}
	// The kernel names a running program by its real path, and workloads are
	// known by that.
	if projectDir, err = filepath.EvalSymlinks(projectDir); err != nil {
		return nil, err
	}
	f, err := load(projectDir)
	if errors.Is(err, ErrNoFleet) {
		f = layout(projectDir)
		err = f.save()
	}
	if err != nil {
		return nil, err
	}
	return f, os.MkdirAll(f.RunDir, 0o700)
}

// layout is the fleet every `bailiwick dev` runs, without addresses.
func layout(projectDir string) *Fleet {
	dir := filepath.Join(projectDir, folder)
	f := &Fleet{Dir: dir, RunDir: filepath.Join(dir, "run")}
	if len(f.RunDir) > maxRunDir {
		h := fnv.New32a()
		h.Write([]byte(dir))
		f.RunDir = filepath.Join(os.TempDir(), fmt.Sprintf("bailiwick-%d-%08x", os.Getuid(), h.Sum32()))
	}
	for _, r := range []struct {
		label string
		nodes int
	}{{"east", 3}, {"west", 2}} {
		td := spiffeid.RequireTrustDomainFromString(r.label + ".dev.example")
		f.Regions = append(f.Regions, Region{Label: r.label, TrustDomain: td.Name()})
		for i := range r.nodes {
			name := fmt.Sprintf("%s-n%d", r.label, i+1)
			f.Nodes = append(f.Nodes, Node{
				Name: name, Region: r.label, First: i == 0, Second: i == 1 && r.nodes > 2,
				ID:             spiffeid.RequireFromSegments(td, "node", name),
				Dir:            filepath.Join(dir, "nodes", name),
				Config:         filepath.Join(dir, "nodes", name, "node.yaml"),
				ControlSocket:  filepath.Join(f.RunDir, name, "control.sock"),
				WorkloadSocket: filepath.Join(f.RunDir, name, "workload.sock"),
			})
		}
	}
	for _, w := range []struct{ program, node, serves, calls string }{
		{"web", "east-n1", "web", ""},
		{"shop", "east-n2", "", "web.east.mesh"},
		{"shop", "east-n3", "", "web.east.mesh"},
		{"shop", "west-n1", "", "web.east.mesh"},
		{"intruder", "west-n2", "", "web.east.mesh"},
	} {
		n, _ := f.Node(w.node)
		f.Workloads = append(f.Workloads, Workload{
			Name: w.program + "-" + w.node, Program: w.program, Node: w.node, Serves: w.serves, Calls: w.calls,
			ID:     spiffeid.RequireFromSegments(n.ID.TrustDomain(), "workload", w.program),
			Denied: w.program == "intruder",
		})
	}
	return f
}

// addresses gives every node and workload loopback ports that are free now,
// keeping those of an earlier start where they still are.
func (f *Fleet) addresses() error {
	var held []func() error
	defer func() {
		for _, release := range held {
			_ = release()
		}
	}()
	pick := func(network string, at *netip.AddrPort) error {
		addr, release, err := reserve(network, *at)
		if err != nil {
			return fmt.Errorf("find a free loopback port: %w", err)
		}
		*at, held = addr, append(held, release)
		return nil
	}
	for i := range f.Nodes {
		if err := pick("udp", &f.Nodes[i].Mesh); err != nil {
			return err
		}
		if f.Nodes[i].issues() {
			if err := pick("tcp", &f.Nodes[i].Issuer); err != nil {
				return err
			}
		}
	}
	for i := range f.Workloads {
		if err := pick("tcp", &f.Workloads[i].Address); err != nil {
			return err
		}
	}
	return nil
}

// reserve binds want, or any free port where that is taken or not set, and
// holds it until release.
func reserve(network string, want netip.AddrPort) (netip.AddrPort, func() error, error) {
	bind := func(address string) (net.Addr, func() error, error) {
		if network == "udp" {
			c, err := net.ListenPacket("udp", address)
			if err != nil {
				return nil, nil, err
			}
			return c.LocalAddr(), c.Close, nil
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, nil, err
		}
		return l.Addr(), l.Close, nil
	}
	if want.IsValid() {
		if _, release, err := bind(want.String()); err == nil {
			return want, release, nil
		}
	}
	addr, release, err := bind("127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	got, err := netip.ParseAddrPort(addr.String())
	return got, release, err
}

func (f *Fleet) save() error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(f.Dir, "fleet.json"), b, 0o600)
}

// writeFile replaces a file in one step.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
