package nginx_test

import (
	"testing"

	"yunfan.io/yunfan/internal/route/edge/edgetest"
	"yunfan.io/yunfan/internal/route/nginx"
)

func TestNET10_Nginx(t *testing.T) {
	edgetest.Run(t, nginx.New, edgetest.Features{
		NoFault: true, OnlySafeRetries: true, KeepsUnknown: true, ClosesIdle: true,
	})
}
