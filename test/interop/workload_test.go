package interop

import (
	"context"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// header is what every call of the Workload API must carry, once.
const header = "workload.spiffe.io"

// workloadQuestions go to a Workload API as they are, with no SDK in between.
var workloadQuestions = []struct {
	name string
	meta []string
	ask  func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error
}{
	{"X.509-SVID", []string{header, "true"}, askSVID},
	{"X.509-SVID, no header", nil, askSVID},
	{"X.509-SVID, header says something else", []string{header, "yes"}, askSVID},
	{"X.509-SVID, header twice", []string{header, "true", header, "true"}, askSVID},
	{"bundles", []string{header, "true"}, askBundles},
	{"bundles, no header", nil, askBundles},
	{"JWT-SVID, no header", nil, func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{audience}})
		return err
	}},
}

func askSVID(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
	s, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func askBundles(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
	s, err := c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

// sameWorkloadAPI asks ours and a stock agent's the same.
func sameWorkloadAPI(t *testing.T, ours, stock string) {
	t.Helper()
	us, them := dialWorkloadAPI(t, ours), dialWorkloadAPI(t, stock)
	for _, q := range workloadQuestions {
		ask := func(c workload.SpiffeWorkloadAPIClient) string {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return answer(q.ask(metadata.AppendToOutgoingContext(ctx, q.meta...), c))
		}
		if got, want := ask(us), ask(them); got != want {
			t.Errorf("Workload API, %s: ours says %s, spire-agent's %s", q.name, got, want)
		}
	}
}

func dialWorkloadAPI(t *testing.T, socket string) workload.SpiffeWorkloadAPIClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return workload.NewSpiffeWorkloadAPIClient(conn)
}
