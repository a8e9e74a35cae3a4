// Command controller is Knative Serving's own, less what the lab has no use for: its certificates,
// domain mappings, and the health probe's fixed port, which the autoscaler's has taken.
package main

import (
	"knative.dev/pkg/injection/sharedmain"
	"knative.dev/pkg/signals"
	"knative.dev/serving/pkg/reconciler/configuration"
	"knative.dev/serving/pkg/reconciler/gc"
	"knative.dev/serving/pkg/reconciler/labeler"
	"knative.dev/serving/pkg/reconciler/revision"
	"knative.dev/serving/pkg/reconciler/route"
	"knative.dev/serving/pkg/reconciler/serverlessservice"
	"knative.dev/serving/pkg/reconciler/service"
)

func main() {
	sharedmain.MainWithContext(
		sharedmain.WithHealthProbesDisabled(signals.NewContext()),
		"controller",
		configuration.NewController,
		gc.NewController,
		labeler.NewController,
		revision.NewController,
		route.NewController,
		serverlessservice.NewController,
		service.NewController,
	)
}
