package dev

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strconv"
	"text/template"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// quote makes any path a YAML double-quoted scalar: of what strconv.Quote writes
// for valid UTF-8, YAML reads everything.
var templates = template.Must(template.New("").Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(`
{{- define "node" -}}
# Written by bailiwick dev at every start: changes here are lost.
node: {{.ID}}
state: {{quote .StateDir}}
dev: true

tpm:
  mode: required
  device: {{quote .Device}}
  boot_log: {{quote .BootLog}}
{{- if .KeyInMemory}}
  node_key: attested
  seal_cache: true
{{- end}}

attest:
  interval: {{.Interval}}

trust:
  global_keys: [{{quote .GlobalKey}}]
  records:
{{- range .Records}}
    - {{quote .}}
{{- end}}

enrol:
  issuers: ["{{.Enrol}}"]

mesh:
  listen: {{.Mesh}}
  join:
{{- range .Join}}
    - {{.}}
{{- end}}
{{- with .Gateways}}
  gateways:
{{- range .}}
    - {{.}}
{{- end}}
{{- end}}

policy:
  global: {{quote .GlobalPolicy}}
  region: {{quote .RegionPolicy}}
{{- if .First}}

issuer:
  listen: {{.Issuer}}
  keys: {{quote .IssuerKeys}}
  ek_roots: [{{quote .MakerRoot}}]
  entries: [{{quote .Entries}}]

authority:
  keys: {{quote .AuthorityKeys}}
{{- with .Names}}
  services:
{{- range .}}
    - name: {{.Serves}}
      workloads: [{{quote .ID.String}}]
{{- end}}
{{- end}}
{{- end}}
{{- with .Serving}}

services:
{{- range .}}
  - name: {{.Serves}}
    workload: {{.ID}}
    target: {{.Address}}
{{- end}}
{{- end}}
{{- with .Calling}}

listeners:
{{- range .}}
  - listen: {{.Address}}
    service: {{.Calls}}
{{- end}}
{{- end}}

workload_api:
  socket: {{quote .WorkloadSocket}}
control:
  socket: {{quote .ControlSocket}}
{{end}}

{{- define "entries" -}}
# Written by bailiwick dev at every start: changes here are lost.
entries:
{{- range .Nodes}}
  - id: {{.ID}}
    ek: {{.EK}}
    class: {{if .First}}gateway{{else}}node{{end}}
{{- end}}
{{- range .Workloads}}
  - id: {{.ID}}
    node: {{.On}}
    selectors: [{{quote .Path}}]
{{- end}}
{{end}}`))

// nodeFile is what node.yaml says beyond the node itself.
type nodeFile struct {
	Node
	Device, BootLog            string
	Interval                   time.Duration
	KeyInMemory                bool
	GlobalKey                  string
	Records                    []string
	Enrol                      netip.AddrPort
	Join, Gateways             []netip.AddrPort
	GlobalPolicy, RegionPolicy string
	IssuerKeys, AuthorityKeys  string
	MakerRoot, Entries         string
	Names                      []Workload // services of the region
	Serving, Calling           []Workload // beside this node
}

// writeNode writes a node's configuration.
func (f *Fleet) writeNode(n Node, soft *maker.SoftTPM) error {
	file := nodeFile{
		Node: n, Device: soft.Path(), BootLog: soft.BootLog(), Interval: quoteEvery,
		KeyInMemory: n.Name == f.Nodes[len(f.Nodes)-1].Name, // so that both kinds of key, and a sealed cache, are always in use
		GlobalKey:   f.globalKey(), Enrol: f.first(n.Region).Issuer,
		GlobalPolicy: f.globalPolicy(), RegionPolicy: f.regionPolicy(n.Region),
		IssuerKeys: f.issuerKeys(n.Region), AuthorityKeys: f.authorityKeys(n.Region),
		MakerRoot: filepath.Join(f.Dir, "maker", "root.pem"), Entries: f.entriesFile(n.Region),
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
	return write(n.Config, "node", file)
}

type nodeEntry struct {
	Node
	EK string
}

type workloadEntry struct {
	ID, On spiffeid.ID
	Path   string // selector
}

// writeEntries says which machine is which node of a region, and which program is
// which workload.
func (f *Fleet) writeEntries(r Region, machines []machineOf) error {
	var file struct {
		Nodes     []nodeEntry
		Workloads []workloadEntry
	}
	for i, n := range f.Nodes {
		if n.Region == r.Label {
			file.Nodes = append(file.Nodes, nodeEntry{n, machines[i].ek})
		}
	}
	for _, w := range f.Workloads {
		n, err := f.Node(w.Node)
		if err != nil {
			return err
		}
		if n.Region == r.Label {
			file.Workloads = append(file.Workloads, workloadEntry{w.ID, n.ID, "unix:path:" + f.program(w)})
		}
	}
	return write(f.entriesFile(r.Label), "entries", file)
}

func write(path, name string, data any) error {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		return err
	}
	return writeFile(path, b.Bytes(), 0o600)
}
