BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE leases (
	name TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	end_time DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE model_deployments (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	position BIGINT NOT NULL, 
	id TEXT NOT NULL, 
	project TEXT NOT NULL, 
	model TEXT NOT NULL, 
	version TEXT NOT NULL, 
	environment TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	version_id TEXT NOT NULL, 
	environment_id TEXT NOT NULL, 
	namespace TEXT NOT NULL, 
	service TEXT NOT NULL, 
	content TEXT NOT NULL, 
	rollout_uid TEXT, 
	rollout_generation BIGINT, 
	desired_state TEXT NOT NULL, 
	state TEXT NOT NULL, 
	url TEXT NOT NULL, 
	failure JSON, 
	error_reason TEXT NOT NULL, 
	error_message TEXT NOT NULL, 
	caller TEXT NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	ready_time DATETIME, 
	end_time DATETIME, 
	UNIQUE (id)
);
INSERT INTO "model_deployments" VALUES(1,1838472192126418948,'deployment-1','risk','fraud','1','staging','model-1','version-1','environment-1','risk-staging','fraud-staging','c1','uid-1',1,'DEPLOYED','SUPERSEDED','http://fraud.example','{"reason": "CRASH_LOOP", "message": "it crashed", "remedy": "look at its log", "rollout_id": "dWlkLTEvMQ", "component": "PREDICTOR", "pod": "p", "container": "c", "exit_code": 1, "restart_count": 2, "log_lines": ["one", "two"], "retrying": true, "first_seen_time": "2026-11-22T21:30:00.123456+00:00"}','','','somebody','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456');
INSERT INTO "model_deployments" VALUES(2,1838472192126418949,'deployment-2','risk','fraud','1','staging','model-1','version-1','environment-1','risk-staging','fraud-staging','c2',NULL,NULL,'UNDEPLOYED','FAILED','',NULL,'QUOTA_EXCEEDED','no room','','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456',NULL,'2026-11-22 21:35:00.123456');
INSERT INTO "model_deployments" VALUES(3,1838472192126418950,'deployment-3','risk','fraud','2','staging','model-1','version-2','environment-1','risk-staging','fraud-staging','c3',NULL,NULL,'DEPLOYED','PENDING','',NULL,'','','','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456',NULL,NULL);
CREATE TABLE model_versions (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	position BIGINT NOT NULL, 
	id TEXT NOT NULL, 
	project TEXT NOT NULL, 
	model TEXT NOT NULL, 
	version TEXT NOT NULL, 
	storage_uri TEXT NOT NULL, 
	image TEXT NOT NULL, 
	format JSON, 
	state TEXT NOT NULL, 
	metadata JSON NOT NULL, 
	description TEXT NOT NULL, 
	labels JSON NOT NULL, 
	etag TEXT NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	UNIQUE (project, model, version), 
	FOREIGN KEY(project, model) REFERENCES registered_models (project, name) ON DELETE CASCADE, 
	UNIQUE (id)
);
INSERT INTO "model_versions" VALUES(1,1838472192126418945,'version-1','risk','fraud','1','s3://models/fraud/1','','{"name": "sklearn", "version": "1"}','ARCHIVED','{"run": "a", "scores": [0.5, 1.0, null], "deep": {"er": true}}','','{"team": "risk"}','e2','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456');
INSERT INTO "model_versions" VALUES(2,1838472192126418946,'version-2','risk','fraud','2','','registry.example/fraud:2',NULL,'READY','{}','','{"team": "risk"}','e3','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456');
CREATE TABLE registered_models (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	position BIGINT NOT NULL, 
	id TEXT NOT NULL, 
	project TEXT NOT NULL, 
	name TEXT NOT NULL, 
	default_version TEXT NOT NULL, 
	description TEXT NOT NULL, 
	labels JSON NOT NULL, 
	etag TEXT NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	UNIQUE (project, name), 
	UNIQUE (id)
);
INSERT INTO "registered_models" VALUES(1,1838472192126418944,'model-1','risk','fraud','2','it''s ä model','{"team": "risk"}','e1','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456');
CREATE TABLE serving_environments (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	position BIGINT NOT NULL, 
	id TEXT NOT NULL, 
	project TEXT NOT NULL, 
	name TEXT NOT NULL, 
	namespace TEXT NOT NULL, 
	defaults JSON NOT NULL, 
	description TEXT NOT NULL, 
	labels JSON NOT NULL, 
	etag TEXT NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	UNIQUE (project, name), 
	UNIQUE (id)
);
INSERT INTO "serving_environments" VALUES(1,1838472192126418947,'environment-1','risk','staging','risk-staging','{"env": {"A": "1"}, "secret_env": {"B": {"secret": "s", "key": "k"}}, "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}, "scaling": {"min_replicas": 1, "max_replicas": 3, "target": 10, "metric": "rps"}, "service_account": "account", "image_pull_policy": "Always", "deployment_mode": "Standard", "node_selector": {"gpu": "yes"}, "tolerations": [{"key": "gpu", "operator": "Exists", "value": "", "effect": "NoExecute", "toleration_seconds": 60}], "request_timeout": "PT2.5S"}','','{"team": "risk"}','e4','2026-11-22 21:30:00.123456','2026-11-22 21:35:00.123456');
CREATE INDEX registered_models_newest ON registered_models (project, position, number);
CREATE INDEX model_versions_newest_model ON model_versions (project, model, position, number);
CREATE INDEX serving_environments_newest ON serving_environments (project, position, number);
CREATE INDEX model_deployments_newest ON model_deployments (project, position, number);
CREATE INDEX model_deployments_newest_model ON model_deployments (project, model, position, number);
CREATE INDEX model_deployments_newest_version ON model_deployments (project, version, position, number);
CREATE INDEX model_deployments_newest_environment ON model_deployments (project, environment, position, number);
CREATE INDEX model_deployments_newest_namespace ON model_deployments (project, namespace, position, number);
CREATE INDEX model_deployments_newest_service ON model_deployments (project, service, position, number);
CREATE INDEX model_deployments_newest_state ON model_deployments (project, state, position, number);
CREATE INDEX model_deployments_newest_model_version ON model_deployments (project, model, version, position, number);
CREATE INDEX model_deployments_open_namespace ON model_deployments (namespace, service) WHERE end_time IS NULL;
CREATE INDEX model_deployments_open_model_id ON model_deployments (model_id) WHERE end_time IS NULL;
CREATE INDEX model_deployments_open_version_id ON model_deployments (version_id) WHERE end_time IS NULL;
CREATE INDEX model_deployments_open_environment_id ON model_deployments (environment_id) WHERE end_time IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('registered_models',1);
INSERT INTO "sqlite_sequence" VALUES('model_versions',2);
INSERT INTO "sqlite_sequence" VALUES('serving_environments',1);
INSERT INTO "sqlite_sequence" VALUES('model_deployments',3);
COMMIT;
